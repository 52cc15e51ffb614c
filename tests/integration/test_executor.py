"""User code in a worker: what it gets, in which order, and what becomes of what it returns or raises."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from core.tasks import Priority, utc_now
from tests.executor_bench import USER_GRAPHS, Bench, children, error_of
from tests.waiting import until_async
from worker.authoring.context import Progress
from worker.children import pool as child_pool
from worker.children.pool import RUNS_PER_CHILD

ROOT = Path(__file__).parents[2]

MIB = 1024 * 1024


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.executor.start()
    yield bench
    await bench.executor.close()


@pytest.fixture
async def graphs() -> AsyncIterator[Bench]:
    bench = Bench(code=USER_GRAPHS)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


# results


@pytest.mark.parametrize("task_type", ["count", "count_async"])
async def test_a_payload_arrives_as_its_model_and_a_dataclass_leaves_as_json(bench: Bench, task_type: str) -> None:
    finished = await bench.run(task_type, {"text": "three small words"})

    assert (finished.status, finished.result) == ("completed", {"words": 3})
    assert finished.run_ms > 0


@pytest.mark.parametrize("task_type", ["count", "count_async"])
async def test_a_payload_that_breaks_its_model_fails_at_once_naming_the_field(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type, {"txt": "a"}))

    assert error.type == "BadTask"
    assert "'text'" in error.message
    assert not error.retryable


async def test_plain_functions_run_outside_the_worker_in_a_process_used_again(bench: Bench) -> None:
    first, second = await bench.run("pid"), await bench.run("pid")

    assert first.result == second.result != os.getpid()


async def test_to_start_again_opens_no_more_slots() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    await bench.executor.start()
    first, second = bench.submit("wait_async"), bench.submit("echo", 2)
    await bench.begun(first)

    assert (list(bench.executor.running), bench.executor.queued) == ([first.task_id], 1)

    bench.executor.cancel(first.task_id, first.attempt)
    assert (await bench.end_of(second)).result == 2
    await bench.executor.close()


@pytest.mark.parametrize("task_type", ["count", "count_async"])
async def test_deadlines_are_of_the_clock_that_is_given_and_not_of_this_machine(task_type: str) -> None:
    bench = Bench(now=lambda: utc_now() - timedelta(hours=1))
    await bench.executor.start()
    ahead, passed = utc_now() - timedelta(minutes=30), utc_now() - timedelta(minutes=61)

    assert (await bench.run(task_type, {"text": "in time"}, deadline=ahead)).status == "completed"
    late = error_of(await bench.run(task_type, {"text": "late"}, deadline=passed))

    assert (late.type, late.retryable) == ("deadline", False)
    await bench.executor.close()


async def test_a_request_too_large_for_its_process_says_so_and_harms_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = (await bench.run("pid")).result
    await bench.run("mumble")
    monkeypatch.setattr(child_pool, "FRAME_LIMIT_BYTES", 10_000)

    error = error_of(await bench.run("count", {"text": "x" * 10_000}))

    assert (error.type, error.retryable) == ("BadTask", False)
    assert "return less, or a reference" in error.message
    assert error.output == ""  # and not what the attempt before it has printed
    assert (await bench.run("pid")).result == pid


async def test_what_is_printed_when_stderr_is_gone_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())

    assert (await bench.run("mumble")).result == 2
    assert (await bench.run("pid")).status == "completed"


async def test_a_process_is_replaced_after_its_thousandth_run() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    for _ in range(RUNS_PER_CHILD + 1):
        bench.submit("pid")
    await until_async(lambda: len(bench.finished) == RUNS_PER_CHILD + 1, "all end")
    await bench.executor.close()

    pids = [finished.result for finished in bench.finished]
    assert len(set(pids[:-1])) == 1
    assert pids[-1] != pids[0]


@pytest.mark.parametrize("task_type", ["seen", "seen_async"])
async def test_a_handler_sees_its_attempt_deadline_and_key(bench: Bench, task_type: str) -> None:
    deadline = utc_now() + timedelta(hours=1)
    finished = await bench.run(task_type, attempt=3, idempotency_key="order-7", deadline=deadline)

    assert finished.result["attempt"] == 3
    assert finished.result["key"] == "order-7"
    assert finished.result["same"] is True
    assert finished.result["deadline"][:19] == deadline.isoformat()[:19]


async def test_what_an_async_handler_returns_is_a_copy_of_its_own(bench: Bench) -> None:
    payload = {"list": [1]}
    finished = await bench.run("echo", payload)

    assert finished.result == payload
    assert finished.result["list"] is not payload["list"]


@pytest.mark.parametrize("task_type", ["large", "large_async"])
async def test_a_result_over_the_limit_is_refused_with_the_cure(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type, 100 * MIB))

    assert "over the limit of 262144" in error.message
    assert not error.retryable


@pytest.mark.parametrize("task_type", ["no_json", "no_json_async"])
async def test_a_result_that_is_no_json_is_refused_with_the_cure(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type))

    assert "result is not JSON" in error.message
    assert not error.retryable


@pytest.mark.parametrize("task_type", ["unrun", "unrun_async"])
async def test_a_handler_that_returns_what_has_not_run_is_told_so(bench: Bench, task_type: str) -> None:
    errors = [error_of(await bench.run(task_type, kind)) for kind in ("coroutine", "generator", "async generator")]

    assert [(error.type, error.retryable) for error in errors] == [("BadTask", False)] * 3
    assert "await it in an async def, or make the handler one" in errors[0].message
    assert ["returned a generator" in error.message for error in errors] == [False, True, True]


async def test_an_unknown_task_type_fails_at_once_naming_the_known_ones(bench: Bench) -> None:
    error = error_of(await bench.run("cuont"))

    assert "count_async" in error.message
    assert "--import" in error.message
    assert not error.retryable


async def test_context_variables_of_one_attempt_are_not_seen_by_the_next() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()

    assert (await bench.run("variables", "dirt")).result == "nothing"
    assert (await bench.run("variables", "more")).result == "nothing"

    await bench.executor.close()


# graphs


async def test_a_graph_runs_its_nodes_with_the_context_and_its_final_state_is_the_result(graphs: Bench) -> None:
    finished = await graphs.run("review", {"text": "four"}, attempt=2)

    assert finished.status == "completed", finished.error
    assert (finished.result["length"], finished.result["attempt"]) == (4, 2)
    assert finished.result["messages"][0]["content"] == "4 letters"


async def test_a_graph_wants_an_object(graphs: Bench) -> None:
    error = error_of(await graphs.run("review", [1]))

    assert "must be an object" in error.message
    assert not error.retryable


async def test_a_node_that_fails_fails_the_attempt_with_its_traceback(graphs: Bench) -> None:
    error = error_of(await graphs.run("review", {}))

    assert (error.type, error.retryable) == ("KeyError", True)
    assert "in measure" in error.traceback


async def test_a_builder_that_gives_no_graph_fails_the_attempt(graphs: Bench) -> None:
    assert "must return a LangGraph graph, not a str" in error_of(await graphs.run("broken_review", {})).message


async def test_a_graph_that_pauses_has_not_completed(graphs: Bench) -> None:
    asking = ["asks", "asks_and_remembers", "asks_below", "asks_wrapped"]
    stopping = ["stops_before", "stops_at_once", "stops_after", "stops_and_remembers", "stops_below"]
    for task_type in asking + stopping:
        error = error_of(await graphs.run(task_type, {"text": ""}))
        assert (error.type, error.retryable) == ("BadTask", False), task_type
        assert "the graph has paused" in error.message
        assert error.traceback == ""

    assert (await graphs.run("never_pauses", {"text": ""})).result == {"text": "draft", "length": 2, "messages": []}
    assert (await graphs.run("narrow", {"text": ""})).result == {"length": 3}


async def test_a_graph_out_of_time_ends_without_losing_its_process(graphs: Bench) -> None:
    assert (await graphs.run("review", {"text": "four"})).status == "completed"
    before = {child.pid for child in children()}

    assert error_of(await graphs.run("stuck_review", {"text": ""}, timeout_s=0.2)).type == "timeout"

    assert (await graphs.run("review", {"text": "four"})).status == "completed"
    assert before <= {child.pid for child in children()}  # another one may have been made ready meanwhile


# errors


@pytest.mark.parametrize("task_type", ["fail", "fail_async"])
async def test_an_exception_comes_back_with_type_message_and_the_users_frames_only(
    bench: Bench, task_type: str
) -> None:
    error = error_of(await bench.run(task_type, "no such word", attempt=2))

    assert (error.type, error.message, error.attempt, error.retryable) == ("ValueError", "no such word", 2, True)
    assert f"in {task_type}" in error.traceback
    assert "executor_user_code.py" in error.traceback
    assert str(ROOT / "worker") not in error.traceback


@pytest.mark.parametrize(
    ("task_type", "name"),
    [
        ("raise_named", "SystemExit"),
        ("raise_named", "KeyboardInterrupt"),
        ("raise_named_async", "SystemExit"),
        ("raise_named_async", "KeyboardInterrupt"),
        ("raise_named_async", "CancelledError"),
    ],
)
async def test_whatever_a_handler_raises_only_fails_its_attempt(bench: Bench, task_type: str, name: str) -> None:
    error = error_of(await bench.run(task_type, name))

    assert (error.type, error.message) == (name, "enough")
    assert (await bench.run("echo", 1)).result == 1
    assert (await bench.run("pid")).status == "completed"


async def test_an_error_that_cannot_be_shown_or_is_huge_is_reported_all_the_same(bench: Bench) -> None:
    assert "cannot be shown: RuntimeError" in error_of(await bench.run("fail_unprintable")).message
    huge = error_of(await bench.run("huge_error"))
    assert len(huge.message) + len(huge.traceback) < 21_000


# order


async def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    bench = Bench(concurrency=1)
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "urgent"), ("d", "normal"), ("e", "urgent")]:
        bench.submit("echo_later", task_id=name, priority=Priority(priority))
    await bench.executor.start()
    await until_async(lambda: len(bench.finished) == 5, "all end")
    await bench.executor.close()

    assert [finished.task_id for finished in bench.finished] == ["c", "e", "b", "d", "a"]


async def test_what_has_not_begun_can_be_taken_back() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    running = bench.submit("wait_async")
    await bench.begun(running)
    waiting = [bench.submit("echo"), bench.submit("echo", priority=Priority.HIGH)]

    assert bench.executor.withdraw() == waiting[::-1]
    assert bench.executor.queued == 0
    assert list(bench.executor.running) == [running.task_id]
    await bench.executor.close()


async def test_an_attempt_that_waits_for_its_process_is_cancelled_by_a_newer_one_of_its_task() -> None:
    bench = Bench()  # not started: no function can run yet
    for attempt in (1, 2, 2, 1):
        bench.submit("pid", task_id="same", attempt=attempt)

    assert [(finished.attempt, finished.status) for finished in bench.finished] == [(1, "cancelled")]
    assert [task.attempt for task in bench.executor.withdraw()] == [2]


@pytest.mark.parametrize("task_type", ["wait_async", "deaf"])
async def test_nobody_hears_how_a_forgotten_run_ended_and_the_same_attempt_runs_anew(
    bench: Bench, tmp_path: Path, task_type: str
) -> None:
    forgotten = [bench.submit(task_type, str(tmp_path / "pid"), task_id="same")]
    await bench.begun(forgotten[0])
    forgotten += [bench.submit("wait_async") for _ in range(2)]  # one that runs, one that has not begun

    bench.executor.forget_all()
    again = bench.submit("echo", "anew", task_id="same")
    assert bench.executor.queued == 1  # behind the run that goes on

    assert (await bench.end_of(again)).result == "anew"
    await until_async(lambda: not bench.executor.running, "the others have ended")
    assert [finished.task_id for finished in bench.finished] == ["same"]


async def test_an_executor_that_was_closed_can_be_started_again() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    await bench.begun(bench.submit("wait_async", task_id="same"))
    await bench.executor.close()

    await bench.executor.start()
    again = await bench.run("wait_async", task_id="same", timeout_s=0.1)
    assert error_of(again).type == "timeout"
    assert (await bench.run("pid")).status == "completed"

    await bench.executor.close()


async def test_no_more_run_at_a_time_than_asked_for(bench: Bench) -> None:
    for _ in range(5):
        bench.submit("wait_async")
    await until_async(lambda: len(bench.executor.running) == 2, "two run")

    assert bench.executor.queued == 3


async def test_the_loop_goes_on_while_many_short_tasks_run(bench: Bench) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if len(bench.finished) < 20_000:
            asyncio.get_running_loop().call_soon(turn)

    for _ in range(20_000):
        bench.submit("echo", 1)
    turn()
    await until_async(lambda: len(bench.finished) == 20_000, "all end")

    assert turns > 10


# progress and children


@pytest.mark.parametrize("task_type", ["report", "report_async"])
async def test_progress_is_passed_on_seldom_and_the_latest_wins(bench: Bench, task_type: str) -> None:
    task = bench.submit(task_type)
    await until_async(lambda: bench.progress and bench.progress[-1].note == "waiting", "the last one arrives")

    assert bench.progress[-1] == Progress(task.task_id, 1, 0.75, "waiting", {})
    assert bench.executor.running[task.task_id].progress == bench.progress[-1]
    assert len(bench.progress) < 20


@pytest.mark.parametrize("task_type", ["split", "split_async"])
async def test_a_handler_delegates_to_children_named_after_it(bench: Bench, task_type: str) -> None:
    finished = await bench.run(task_type, task_id="job")

    assert (finished.status, finished.result) == ("delegated", None)
    assert finished.spawn is not None
    assert [(child.task_id, child.payload) for child in finished.spawn.children] == [("job/0", 1), ("job/1", 2)]
    assert (finished.spawn.then.task_type, finished.spawn.then.payload) == ("merge", "rest")


async def test_a_continuation_reads_the_results_of_its_children(bench: Bench) -> None:
    assert (await bench.run("merge", inputs=(("a", "ok"), ("b", "ok")))).result == ["a", "b"]


async def test_a_continuation_of_a_failed_child_fails_naming_it(bench: Bench) -> None:
    error = error_of(await bench.run("merge", inputs=(("a", "ok"), ("b", "bad"))))

    assert (error.type, error.message) == ("TaskFailed", "task 'b' ended as failed: ValueError: no good")
