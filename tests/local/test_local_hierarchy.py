"""A hierarchy in one process does what one of processes does."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

import tests.local.tasks  # noqa: F401  # it registers them
from core.agent_run import RunOptions
from core.errors import BadTask, ConfigError, TaskTimeout
from core.local.hierarchy import LocalHierarchy
from core.memory_backend.clock import run_virtual
from core.tasks import Task, TaskStatus


@pytest.mark.parametrize(
    ("task_type", "payload", "result"),
    [
        ("local.plain", [1, 2], 3),
        ("local.tree", [[1, 2], [3]], 6),
        ("local.flaky", 2, 3),
        ("local.wait", 30.0, 30.0),
    ],
)
def test_what_workers_can_run_runs_here_too(submit_and_wait: Any, task_type: str, payload: Any, result: Any) -> None:
    assert submit_and_wait(task_type, payload).result == result


def test_what_takes_too_long_ends_at_its_timeout_and_at_its_deadline(
    hierarchy: LocalHierarchy, submit_and_wait: Any
) -> None:
    timed_out = submit_and_wait("local.slow", 60.0)
    before = hierarchy.now
    late = submit_and_wait("local.wait", 300.0, deadline=before + timedelta(seconds=7))

    assert (timed_out.error.type, timed_out.error.attempt) == ("timeout", 2)
    assert late.status is not TaskStatus.COMPLETED
    assert timedelta(seconds=7) <= hierarchy.now - before < timedelta(seconds=20)


def test_a_task_that_is_cancelled_ends_so(hierarchy: LocalHierarchy) -> None:
    task_id = hierarchy.client.submit(Task(task_type="local.wait", payload=3600.0))
    hierarchy.sleep(5)
    assert hierarchy.client.cancel(task_id)
    assert hierarchy.client.result(task_id, 60).status is TaskStatus.CANCELLED


@pytest.mark.hierarchy(workers=1)
def test_a_task_outlives_its_worker(hierarchy: LocalHierarchy, kill: Any) -> None:
    task_id = hierarchy.client.submit(Task(task_type="local.wait", payload=30.0))
    assert kill() == "worker-1"
    ended = hierarchy.client.result(task_id, 300)
    assert (ended.status, ended.result, ended.attempt) == (TaskStatus.COMPLETED, 30.0, 2)


def test_a_graph_delegates_asks_and_goes_on(hierarchy: LocalHierarchy, questions: Any, events: Any) -> None:
    client = hierarchy.client
    run = RunOptions(stream=("updates",))
    task_id = client.submit(Task(task_type="local.story", payload={"title": "tide"}, run=run))
    [question] = questions()
    assert (question.task_id, question.asks) == (task_id, {"publish": "tide"})
    client.answer(task_id, question.interrupt_id, "yes")

    assert client.value(task_id, 60) == {"title": "tide", "written": 5, "approved": "yes"}
    told = [(chunk.attempt, chunk.mode, *chunk.data) for chunk in client.stream(task_id)]
    assert [each for each in told if "write" in each or "approve" in each] == [
        (2, "updates", "write"), (3, "updates", "approve")
    ]  # fmt: skip
    assert told[-1] == (3, "lifecycle", "status")
    assert {event.node_id for event in events("node_completed", task=task_id)} == {"write", "approve"}


def test_a_graph_goes_on_where_its_killed_worker_was(hierarchy: LocalHierarchy, questions: Any, kill: Any) -> None:
    client = hierarchy.client
    task_id = client.submit(Task(task_type="local.story", payload={"title": "tide"}))
    [question] = questions()
    for worker in hierarchy.workers:
        kill(worker)
    client.answer(task_id, question.interrupt_id, "late")
    assert client.value(task_id, 300)["approved"] == "late"


def test_progress_and_events_are_told(submit_and_wait: Any, events: Any) -> None:
    task_id = submit_and_wait("local.plain", [4, 5]).task_id
    assert [event.data["sum"] for event in events("custom", task=task_id)] == [9]


def test_what_waits_for_ever_is_told_after_a_while(hierarchy: LocalHierarchy, questions: Any) -> None:
    with pytest.raises(TaskTimeout):
        questions(timeout_s=1)
    with pytest.raises(TaskTimeout):
        hierarchy.submit_and_wait("local.unknown", timeout_s=1)


async def test_a_coroutine_lives_in_the_time_of_its_hierarchy(hierarchy: LocalHierarchy, submit_and_wait: Any) -> None:
    before = hierarchy.now
    await asyncio.sleep(30)
    assert (await submit_and_wait("local.plain", [1])).result == 1
    assert hierarchy.now - before >= timedelta(seconds=30)


@pytest.mark.hierarchy(real_time=True, workers=1)
def test_in_real_time_functions_run_in_threads_and_those_that_do_not_end_are_left_behind(submit_and_wait: Any) -> None:
    assert submit_and_wait("local.plain", [1, 2]).result == 3
    stubborn = submit_and_wait("local.stubborn", 3.0)
    assert stubborn.error.type == "timeout"
    assert any(thread.name.startswith("attempt") for thread in threading.enumerate())


async def test_a_coroutine_has_one_for_itself() -> None:
    async with LocalHierarchy(workers=1) as client:
        assert await client.value.aio(await client.submit.aio(Task(task_type="local.plain", payload=[7])), 30) == 7


def test_a_program_on_a_virtual_loop_has_one_too() -> None:
    async def main() -> Any:
        async with LocalHierarchy() as client:
            return await client.value.aio(await client.submit.aio(Task(task_type="local.wait", payload=60.0)), 100)

    assert run_virtual(main(), seed=1) == 60.0


@pytest.mark.parametrize(
    "wrong", [{"workers": 1, "distributors": 2}, {"workers": 0}, {"modules": ["no_such_module_here"]}]
)
def test_what_cannot_work_is_said_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LocalHierarchy(**wrong)


def test_a_worker_that_is_none_cannot_be_killed(kill: Any) -> None:
    with pytest.raises(BadTask, match="worker-1, worker-2"):
        kill("worker-9")
