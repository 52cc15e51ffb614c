"""What is kept of the attempts of a task that failed, wherever the task goes; and the pause before its next one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict

from coordinator.state import TakenOver
from core.attempt_errors import ERRORS_LIMIT_BYTES, bounded, errors_with
from core.roles import Action
from core.step import Drain, Table
from core.tasks import Task, TaskError
from distributor.rules import recall
from tests import coordinator_steps as above
from tests.builders import DISTRIBUTOR, NOW, WORKER, a_beat, a_task, record, sent
from tests.distributor_steps import a_distributor, assigned, failure, outcome, reports, silence, take, to_me


def of(item: dict[str, Any]) -> list[tuple[int, str, str]]:
    return [(error["attempt"], error["worker"], error["type"]) for error in item["errors"]]


def an_error(attempt: int, **fields: Any) -> TaskError:
    return TaskError(**{"type": "ValueError", "message": "no", "attempt": attempt, "worker": "w", **fields})


# ---- in the distributor ----


def test_each_failed_attempt_leaves_its_error_in_the_record_and_in_the_report() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))

    kept = [of(record(take(state, failure("t", attempt=attempt)), Table.ACTUAL, "t")) for attempt in (1, 2)]
    [report] = reports(take(state, failure("t", attempt=3)))

    assert [len(errors) for errors in kept] == [1, 2]
    assert of(report) == [(1, "worker-1", "ValueError"), (2, "worker-1", "ValueError"), (3, "worker-1", "ValueError")]


def test_a_task_that_succeeds_in_the_end_tells_which_attempts_failed() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))
    take(state, failure("t"))

    [report] = reports(take(state, outcome("t", attempt=2, result=1)))

    assert report["status"] == "completed"
    assert of(report) == [(1, "worker-1", "ValueError")]


def test_a_task_that_never_fails_says_nothing_of_errors() -> None:
    state = a_distributor(WORKER)

    stored = record(take(state, assigned(a_task())), Table.ACTUAL, "t")
    [report] = reports(take(state, outcome("t", result=1)))

    assert not {"errors", "not_before"} & {*stored, *report}


def test_an_attempt_whose_worker_is_gone_tells_how_far_it_said_it_was() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task()))
    progress = {"task_id": "t", "attempt": 1, "progress": {"fraction": 0.5, "note": "half"}}
    take(state, to_me(WORKER, Action.TASK_PROGRESS, [progress]), later_s=1)

    step = silence(state)

    [error] = record(step, Table.ACTUAL, "t")["errors"]
    assert (error["type"], error["attempt"]) == ("worker_lost", 1)
    assert error["output"] == 'progress: {"fraction":0.5,"note":"half"}'


def test_what_an_earlier_attempt_said_is_not_taken_for_the_output_of_a_later_one() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=0)))
    progress = {"task_id": "t", "attempt": 1, "progress": {"note": "half"}}
    take(state, to_me(WORKER, Action.TASK_PROGRESS, [progress]), later_s=1)
    take(state, failure("t"), later_s=2)

    step = silence(state)

    assert record(step, Table.ACTUAL, "t")["errors"][1] == asdict(
        an_error(2, type="worker_lost", message="worker worker-1 was gone before it reported", worker="worker-1")
    )


def test_a_task_that_is_given_back_takes_its_errors_and_its_pause_along() -> None:
    state = a_distributor(WORKER)
    take(state, assigned(a_task(backoff_s=3)))
    take(state, failure("t"))

    [report] = reports(take(state, events=[Drain()]))

    assert (report["status"], of(report)) == ("returned", [(1, "worker-1", "ValueError")])
    assert datetime.fromisoformat(report["not_before"]) == NOW + a_task(backoff_s=3, retry_count=1).retry_delay()


def test_the_pause_before_a_retry_survives_a_restart_of_the_distributor() -> None:
    before = a_distributor(WORKER)
    take(before, assigned(a_task(backoff_s=3)))
    records = [Task(**record(take(before, failure("t")), Table.ACTUAL, "t"))]

    after = a_distributor()
    recall(after, records, mono_ms=0)
    early = take(after, beats=[a_beat(WORKER, beat=2)], later_s=1.4)
    late = take(after, later_s=3)

    assert sent(early, WORKER, Action.ASSIGN_TASK) == []
    [again] = sent(late, WORKER, Action.ASSIGN_TASK)
    assert again["attempt"] == 2
    assert "not_before" not in again


# ---- in the coordinator ----


def test_the_coordinator_records_the_error_of_every_attempt() -> None:
    state = above.a_coordinator(DISTRIBUTOR)
    above.take(state, above.submitted(a_task()))
    errors = [asdict(an_error(n)) for n in (1, 2)]

    step = above.take(state, above.result("t", "failed", error=errors[1], errors=errors, retry_count=2))

    stored = record(step, Table.TASKS, "t")
    assert [error["attempt"] for error in stored["errors"]] == [1, 2]
    assert stored["error"]["attempt"] == 2


def test_a_task_that_comes_back_goes_out_again_after_its_pause_and_with_its_errors() -> None:
    state = above.a_coordinator(DISTRIBUTOR, above.OTHER)
    above.take(state, above.submitted(a_task()))
    back = above.result(
        "t", "returned", errors=[asdict(an_error(1))], not_before=(NOW + timedelta(seconds=3)).isoformat()
    )

    early = above.take(state, back)
    late = above.take(state, later_s=3, beats=[above.alive(above.OTHER, beat=2)])

    assert sent(early, above.OTHER, Action.ASSIGN_TASK) == []
    [again] = sent(late, above.OTHER, Action.ASSIGN_TASK)
    assert [error["attempt"] for error in again["errors"]] == [1]


def test_a_task_that_was_under_way_when_its_distributor_died_keeps_its_errors_and_one_more() -> None:
    state = above.a_coordinator(DISTRIBUTOR)
    above.take(state, above.submitted(a_task()))
    above.take(state, beats=[above.alive(above.OTHER)], later_s=4)
    above.take(state, later_s=5)
    told = a_task(attempt=2, retry_count=2, status="in_progress", assigned_to="worker-1", errors=(an_error(1),))

    step = above.take(state, events=[TakenOver("distributor-1", {"t": told})], later_s=5)

    [moved] = sent(step, above.OTHER, Action.ASSIGN_TASK)
    assert of(moved) == [(1, "w", "ValueError"), (2, "worker-1", "distributor_lost")]


# ---- how much is kept ----


@pytest.mark.parametrize("sign", ["x", "\N{SNOWMAN}", "\x00"])
def test_errors_never_take_more_than_their_limit_and_the_newest_are_kept_whole(sign: str) -> None:
    errors: tuple[TaskError, ...] = ()
    for attempt in range(1, 101):
        errors = errors_with(errors, an_error(attempt, message=sign * 2000, traceback="t" * 16_000, output="o" * 2048))

    size = sum(len(msgspec.json.encode(error)) for error in errors)
    assert size <= ERRORS_LIMIT_BYTES
    assert errors[-1].output == "o" * 2048
    assert (errors[0].traceback, errors[0].output) == ("", "")
    assert [error.attempt for error in errors] == list(range(101 - len(errors), 101))


def test_the_error_of_each_of_a_hundred_attempts_is_kept() -> None:
    errors: tuple[TaskError, ...] = ()
    for attempt in range(1, 101):
        errors = errors_with(errors, an_error(attempt, traceback="t" * 2000))

    assert [error.attempt for error in errors] == list(range(1, 101))
    assert {error.message for error in errors} == {"no"}


def test_an_error_beyond_the_limit_is_kept_in_its_first_words() -> None:
    long = TaskError(
        type="t" * 101, message="m" * ERRORS_LIMIT_BYTES, traceback="tb", attempt=3, worker="w" * 101, output="out",
        retryable=False,
    )  # fmt: skip
    short = TaskError(type="t" * 100, message="m" * 100, attempt=3, worker="w" * 100, retryable=False)

    assert bounded(long) == short
    assert errors_with((), long) == (short,)


@pytest.mark.parametrize("more", [0, 1])
def test_an_error_is_kept_whole_up_to_the_limit(more: int) -> None:
    empty = len(msgspec.json.encode(TaskError(type="x", message="")))
    error = TaskError(type="x", message="m" * (ERRORS_LIMIT_BYTES - empty + more))

    assert (bounded(error) is error) is (more == 0)


def of_size(size: int) -> TaskError:
    """An error that takes so many bytes as JSON."""
    return an_error(1, message="m" * (size - len(msgspec.json.encode(an_error(1, message="")))))


@pytest.mark.parametrize("more", [0, 1])
def test_the_newest_errors_are_kept_whole_up_to_exactly_half_of_the_limit(more: int) -> None:
    half = ERRORS_LIMIT_BYTES // 2
    earlier, latest = of_size(half - 1000 + more), of_size(1000)

    kept = errors_with((earlier,), latest)

    assert kept[1] == latest
    assert (kept[0] == earlier) is (more == 0)


@pytest.mark.parametrize("more", [0, 1])
def test_all_errors_together_take_up_to_exactly_the_limit(more: int) -> None:
    short = of_size(100 + len(msgspec.json.encode(an_error(1, message=""))))  # its first words are all of it
    size = len(msgspec.json.encode(short))
    count = ERRORS_LIMIT_BYTES // size
    latest = of_size(ERRORS_LIMIT_BYTES - size * (count - 1) + more)

    assert len(errors_with((short,) * (count - 1), latest)) == count - more
