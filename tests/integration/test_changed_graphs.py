"""A run that goes on with another graph than it has begun with does what its client has said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from msgspec import Raw
from msgspec.structs import replace

from core.agent_run import RunOptions
from core.config.settings import RedisConfig
from core.tasks import utc_now
from tests.executor_bench import INTEGRATION, Bench, error_of, memory_of
from worker.execution.executor import Finished

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

#: The runs of the thread, in their order.
RUNS = ("before", "same", "continues", "restarts", "fails")


@pytest.fixture
def told() -> list[dict[str, Any]]:
    """What hosts have told of changed graphs."""
    return []


@pytest.fixture
async def host(redis_config: RedisConfig, told: list[dict[str, Any]]) -> AsyncIterator[Bench]:
    """A host that stores what it runs."""

    def tell(_: object, event: dict[str, Any]) -> None:
        if event["type"] == "graph_changed":
            told.append(event["data"])

    bench = Bench(hosts=1, code=str(INTEGRATION / "changing_user_graphs.py"), on_event=tell)
    async with memory_of(redis_config) as memory:
        await bench.executor.start(memory)
        yield bench
        await bench.executor.close()


async def answered(
    host: Bench, task_id: str, before: str, after: str, on_change: Literal["continue", "restart", "fail"]
) -> Finished:
    """The attempt that goes on, answered, after one whose graph below has asked has become another."""

    def run(nodes: str) -> RunOptions:
        return RunOptions(on_change=on_change, config={"configurable": {"nodes": nodes.split()}})

    asked = await host.run("changes_below", {}, task_id=task_id, attempt=1, run=run(before))
    assert asked.suspension is not None
    [wait] = asked.suspension.waits
    answer = replace(wait, settled_at=utc_now(), answer_json=Raw(b'"answer"'))
    return await host.run("changes_below", {}, task_id=task_id, attempt=2, run=run(after), waits=(answer,))


async def attempt(
    host: Bench, number: int, task_id: str, nodes: str, on_change: Literal["continue", "restart", "fail"]
) -> Finished:
    """An attempt with a graph of these nodes. The first one stops before its last node."""
    stops = [nodes.split()[-1]] if number == 1 else []
    run = RunOptions(
        thread_id="t", on_change=on_change, interrupt_before=stops, config={"configurable": {"nodes": nodes.split()}}
    )
    order = RUNS.index(task_id) + 1
    return await host.run("changes", {"done": []}, task_id=task_id, attempt=number, thread_order=order, run=run)


async def test_a_run_whose_graph_was_changed_goes_on_begins_anew_or_fails(
    host: Bench, told: list[dict[str, Any]]
) -> None:
    assert (await attempt(host, 2, "before", "one", "continue")).result == {"done": ["one"]}

    # The same graph goes on, whatever is to be done with another one.
    assert (await attempt(host, 1, "same", "one two", "fail")).status == "suspended"
    assert (await attempt(host, 2, "same", "one two", "fail")).result == {"done": ["one", "one", "two"]}
    assert told == []

    await attempt(host, 1, "continues", "one two", "continue")
    ended = await attempt(host, 2, "continues", "one two three", "continue")
    assert ended.result["done"][3:] == ["one", "two", "three"]
    assert [(event["graph"], event["on_change"]) for event in told] == [("changes", "continue")]
    assert told[0]["before"] != told[0]["after"]

    # What the run has done is undone, and what was in its thread before it is not.
    await attempt(host, 1, "restarts", "one two", "restart")
    ended = await attempt(host, 2, "restarts", "new two", "restart")
    assert ended.result["done"][6:] == ["new", "two"]
    assert [event["on_change"] for event in told[1:]] == ["restart"]

    await attempt(host, 1, "fails", "one two", "fail")
    error = error_of(await attempt(host, 2, "fails", "one two three", "fail"))
    assert (error.type, error.retryable) == ("BadTask", False)
    assert "was changed since this run has begun" in error.message


async def test_a_run_is_not_told_as_completed_when_the_node_is_gone_with_which_it_would_go_on(host: Bench) -> None:
    await attempt(host, 1, "continues", "one two", "continue")
    error = error_of(await attempt(host, 2, "continues", "one three", "continue"))
    assert (error.type, error.retryable) == ("BadTask", False)
    assert "no longer has 'two', with which this run would go on" in error.message


async def test_a_run_that_stands_in_a_graph_below_goes_on_begins_anew_or_fails_when_that_was_changed(
    host: Bench, told: list[dict[str, Any]]
) -> None:
    ended = await answered(host, "continues", "one ask", "one two ask three", "continue")
    assert ended.result == {"done": ["first", "first", "one", "answer", "three", "last"]}

    error = error_of(await answered(host, "loses", "one ask", "one two", "continue"))
    assert (error.type, error.retryable) == ("BadTask", False)
    assert "no longer has 'below|ask', with which this run would go on" in error.message
    assert [event["on_change"] for event in told] == ["continue"] * 2

    ended = await answered(host, "restarts", "one ask", "one two", "restart")
    assert ended.result == {"done": ["first", "first", "one", "two", "last"]}
    assert "on_change='fail'" in error_of(await answered(host, "fails", "one ask", "one two", "fail")).message
