"""An attempt is a thing of its own: whatever it does, and however it ends, it disturbs no other and is told of once."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.executor_bench import Bench, error_of, user_handlers
from tests.odd_errors import ODD_ERRORS
from tests.waiting import until
from worker.authoring.context import Context
from worker.authoring.handlers import Handlers
from worker.execution.attempt import Finished

RUDE_CODE = str(Path(__file__).parent / "executor_rude_code.py")
CONCURRENCY = 2


def coroutines() -> Handlers:
    """Those handlers that need no child process."""
    handlers = Handlers()
    for handler in user_handlers(RUDE_CODE):
        if handler.kind == "async":
            handlers.add(handler)
    return handlers


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(CONCURRENCY, coroutines(), RUDE_CODE)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


@pytest.fixture
async def bench_with_children() -> AsyncIterator[Bench]:
    bench = Bench(CONCURRENCY, code=RUDE_CODE)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


async def has_all_its_slots(bench: Bench) -> bool:
    """Whether as many run as may, and no more, when there is enough to do; each ended once."""
    assert len({finished.task_id for finished in bench.finished}) == len(bench.finished)
    waiting = [bench.submit("wait_for_ever") for _ in range(CONCURRENCY + 1)]
    for _ in range(5):
        await asyncio.sleep(0)
    full = (len(bench.executor.running), bench.executor.queued) == (CONCURRENCY, 1)
    for task in waiting:
        bench.executor.cancel(task.task_id, task.attempt)
    return full


# its task


async def test_each_attempt_runs_in_a_task_of_its_own(bench: Bench) -> None:
    assert [(await bench.run("is_new")).result for _ in range(5)] == [True] * 5


async def test_a_timer_that_an_attempt_leaves_behind_cancels_nobody_else_and_takes_no_slot(bench: Bench) -> None:
    rude = [bench.submit("cancel_me_later") for _ in range(2 * CONCURRENCY)]
    innocent = [bench.submit("echo_slowly", n) for n in range(2 * CONCURRENCY)]

    assert [(await bench.end_of(task)).result for task in rude] == ["done"] * len(rude)
    assert [(await bench.end_of(task)).result for task in innocent] == [*range(len(innocent))]
    assert await has_all_its_slots(bench)


async def test_an_attempt_that_cancels_itself_fails_at_once(bench: Bench) -> None:
    error = error_of(await bench.run("cancel_itself"))

    assert (error.type, error.message, error.retryable) == ("CancelledError", "enough", True)
    assert await has_all_its_slots(bench)


async def test_an_attempt_that_is_cancelled_by_another_before_its_first_step_fails_and_takes_no_slot(
    bench: Bench,
) -> None:
    rude, other = bench.submit("cancel_neighbours"), bench.submit("echo_slowly")

    assert (await bench.end_of(rude)).status == "completed"
    assert error_of(await bench.end_of(other)).type == "CancelledError"
    assert await has_all_its_slots(bench)


async def test_an_attempt_that_is_cancelled_as_soon_as_it_is_given_ends_as_cancelled(bench: Bench) -> None:
    task = bench.submit("echo_slowly")
    bench.executor.cancel(task.task_id, task.attempt)

    assert (await bench.end_of(task)).status == "cancelled"


async def test_an_attempt_that_has_ended_is_freed_without_the_collector(bench: Bench) -> None:
    task_types = ("echo_slowly", "raise_odd_async", "cancel_itself")
    gc.collect()
    gc.disable()
    try:
        for task_type in task_types:
            await bench.run(task_type, "Frozen")
        left = [
            candidate
            for candidate in gc.get_objects()
            if isinstance(candidate, Context) and candidate.task_type in task_types
        ]
    finally:
        gc.enable()

    assert left == []


# its threads


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the threads of the user code wait for; open at the end, whatever happens."""
    gate: threading.Event = sys.modules[Path(RUDE_CODE).stem].gate
    gate.clear()
    yield gate
    gate.set()


async def test_threads_that_outlive_their_attempts_are_told_of_and_keep_nobody_waiting(
    bench: Bench, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    all_there_are = min(32, (os.cpu_count() or 1) + 4)
    for _ in range(2):
        blocking, waiting = bench.submit("block_threads", all_there_are), bench.submit("need_a_thread")
        assert error_of(await bench.end_of(blocking)).type == "timeout"
        assert (await bench.end_of(waiting)).result == "done"

    left = [record.args for record in caplog.records if vars(record).get("action") == "threads_left_behind"]
    assert left == [("t1", all_there_are), ("t3", all_there_are)]
    assert await has_all_its_slots(bench)


# its loop


@pytest.mark.parametrize(
    ("task_type", "who"),
    [
        ("block_loop", "the handler of 'block_loop' (task t1)"),
        ("block_loop_below", "what one of the handlers of 'block_loop_below', 'wait_for_ever' has started"),
    ],
)
async def test_who_blocks_the_loop_is_known_while_it_does(
    bench: Bench, gate: threading.Event, task_type: str, who: str
) -> None:
    def look() -> None:
        try:
            until(lambda: bench.executor.holder_of_the_loop() == who, "it is said who is in the loop")
        finally:
            gate.set()

    assert bench.executor.holder_of_the_loop() == ""
    looking = asyncio.get_running_loop().run_in_executor(None, look)
    blocking, _ = bench.submit(task_type), bench.submit("wait_for_ever")
    assert (await bench.end_of(blocking)).status == "completed"
    await looking


# its outcome


@pytest.mark.parametrize("task_type", ["raise_odd", "raise_odd_async"])
async def test_an_exception_that_is_hard_to_tell_of_ends_its_attempt_by_its_name_and_nothing_else(
    bench_with_children: Bench, task_type: str
) -> None:
    bench = bench_with_children
    tasks = [bench.submit(task_type, name) for name in ODD_ERRORS]
    errors = [error_of(await bench.end_of(task)) for task in tasks]

    assert [error.type for error in errors] == list(ODD_ERRORS)
    assert await has_all_its_slots(bench)


async def test_children_that_cannot_be_told_of_fail_their_attempt(bench_with_children: Bench) -> None:
    bench = bench_with_children
    tasks = [
        bench.submit(task_type, how)
        for task_type in ("spawn_badly", "spawn_badly_async")
        for how in ("no task", "no json")
    ]

    assert [(await bench.end_of(task)).status for task in tasks] == ["failed"] * len(tasks)
    assert await has_all_its_slots(bench)


async def test_a_childs_payload_is_what_it_was_when_the_child_was_made(bench_with_children: Bench) -> None:
    for task_type in ("spawn_badly", "spawn_badly_async"):
        ended = await bench_with_children.run(task_type, "changed later")

        assert ended.spawn
        assert [child.payload for child in ended.spawn.children] == [[]]


async def test_a_note_with_methods_of_its_own_is_told_as_the_text_it_is(bench: Bench) -> None:
    assert error_of(await bench.run("note_oddly")).output == "halfway"


async def test_an_outcome_whose_report_fails_is_logged_and_takes_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(CONCURRENCY, coroutines(), RUDE_CODE)
    report, broken = bench.executor._on_finished, iter(range(CONCURRENCY))

    def fail_at_first(finished: Finished) -> None:
        if next(broken, None) is not None:
            raise RuntimeError("a bug of ours")
        report(finished)

    bench.executor._on_finished = fail_at_first
    await bench.executor.start()
    for _ in range(CONCURRENCY):
        bench.submit("echo_slowly")

    assert (await bench.run("echo_slowly", 1)).result == 1
    assert [record.message for record in caplog.records] == ["reporting an attempt failed"] * CONCURRENCY
    assert await has_all_its_slots(bench)
    await bench.executor.close()
