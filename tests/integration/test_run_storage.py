"""What is stored of a run: enough to go on, and nothing that nobody needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from msgspec import Raw

from core.agent_run import RunOptions
from core.checkpoints import RedisSaver
from core.config.settings import RedisConfig
from core.tasks import utc_now
from core.waits import answered
from tests.executor_bench import INTEGRATION, Bench, error_of, memory_of
from worker.execution.executor import Finished

AGENTS = str(INTEGRATION / "ending_user_graphs.py")

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")


@pytest.fixture
async def host(redis_config: RedisConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """One host whose runs are stored."""
    monkeypatch.setenv("USER_CODE_FOLDER", str(tmp_path))
    bench = Bench(agent_concurrency=10, hosts=1, code=AGENTS)
    async with memory_of(redis_config) as memory:
        await bench.executor.start(memory)
        yield bench
        await bench.executor.close()


def nodes_of(folder: Path, task_id: str) -> list[str]:
    file = folder / f"{task_id}.nodes"
    return file.read_text().split() if file.exists() else []


async def stored(redis_config: RedisConfig, thread_id: str) -> list[list[str]]:
    """What is done in each stored checkpoint of a thread, the newest first."""
    async with RedisSaver(redis_config) as saver:
        config = {"configurable": {"thread_id": thread_id}}
        return [each.checkpoint["channel_values"].get("done", []) async for each in saver.alist(config)]  # type: ignore[arg-type]


async def test_a_run_with_a_thread_of_its_own_stores_what_it_may_have_to_go_on_from(
    host: Bench, redis_config: RedisConfig, client: redis.asyncio.Redis, tmp_path: Path
) -> None:
    def of_own(finished: Finished) -> bool:
        """Whether there is a thread that is deleted now that the run has ended."""
        return finished.thread_over

    # With one node there is nothing to go on from: it runs, or its result is there.
    for task_type, done in (("ending.one", ["given", "one"]), ("ending.nothing", ["given"])):
        ended = await host.run(task_type, {"done": ["given"]})
        assert (ended.status, ended.result) == ("completed", {"done": done})
    assert nodes_of(tmp_path, "t1") == ["one"]
    assert await stored(redis_config, "t1") == []
    assert [key async for key in client.scan_iter("{thread:t1}*")] == []

    # Of several, each but the last. Loops and sends are more nodes than can be seen in a graph.
    for task_type, nodes in (
        ("ending.two", ["one", "two"]),
        ("ending.loops", ["again", "again", "again"]),
        ("ending.sends", ["one", "each", "each"]),
    ):
        ended = await host.run(task_type, {})
        assert (ended.result, of_own(ended)) == ({"done": nodes}, True)
        assert nodes_of(tmp_path, ended.task_id) == nodes
        last = nodes[:-2] if task_type == "ending.sends" else nodes[:-1]
        assert (await stored(redis_config, ended.task_id))[0] == last

    # What the client's thread remembers is all of it; with durability exit, the end.
    await host.run("ending.one", {}, run=RunOptions(thread_id="talk"))
    assert await stored(redis_config, "talk") == [["one"], [], []]
    await host.run("ending.one", {}, run=RunOptions(thread_id="talk", durability="exit"), thread_order=1)
    assert (await stored(redis_config, "talk"))[0] == ["one", "one"]


async def test_a_run_that_pauses_is_stored_wherever_it_pauses(
    host: Bench, redis_config: RedisConfig, tmp_path: Path
) -> None:
    asks = host.submit("ending.asks", {})
    ended = await host.end_of(asks)
    assert ended.suspension is not None
    [wait] = ended.suspension.waits
    assert (wait.node, wait.asks) == ("ask", "which?")

    waits = [answered(wait, Raw(b'"this"'), None, utc_now())]
    goes_on = asks.evolve(attempt=2, waits=waits)
    host.executor.submit(goes_on)
    assert (await host.end_of(goes_on)).result == {"done": ["this"]}
    assert nodes_of(tmp_path, asks.task_id) == ["ask", "ask"]

    # Before a node that the client names, after the last one, and in a graph that a node calls.
    before = await host.run("ending.two", {}, run=RunOptions(interrupt_before=["two"]))
    after = await host.run("ending.two", {}, run=RunOptions(interrupt_after=["two"]))
    below = await host.run("ending.calls", {})
    assert before.suspension is not None
    assert below.suspension is not None
    assert [wait.id for wait in before.suspension.waits] == ["breakpoint:two"]
    assert after.result == {"done": ["one", "two"]}
    assert [wait.id for wait in below.suspension.waits] == ["breakpoint:calls"]


async def test_what_a_node_changes_in_place_before_it_asks_is_not_stored(
    host: Bench, redis_config: RedisConfig, tmp_path: Path
) -> None:
    ended = await host.run("ending.changes", {"done": ["given"]})
    assert ended.suspension is not None
    assert await stored(redis_config, ended.task_id) == [["given"]]


async def test_a_node_may_call_a_graph_in_an_event_loop_of_its_own(
    host: Bench, redis_config: RedisConfig, tmp_path: Path
) -> None:
    ended = await host.run("ending.calls_elsewhere", {}, run=RunOptions(thread_id="elsewhere"))
    assert ended.result == {"done": ["one", "one", "two", "two"]}
    assert nodes_of(tmp_path, ended.task_id) == ["one", "call", "one", "two", "two"]
    async with RedisSaver(redis_config) as saver:
        found = [each async for each in saver.alist({"configurable": {"thread_id": "elsewhere"}})]
    assert {each.config["configurable"]["checkpoint_ns"].partition(":")[0] for each in found} == {
        "", "call_in_a_loop_of_its_own",
    }  # fmt: skip


async def test_what_fails_after_the_last_node_does_not_run_it_again(
    host: Bench, redis_config: RedisConfig, tmp_path: Path
) -> None:
    first = host.submit("ending.closes_badly", {})
    assert error_of(await host.end_of(first)).type == "ConnectionError"

    second = first.evolve(attempt=2)
    host.executor.submit(second)
    assert (await host.end_of(second)).result == {"done": ["one", "two"]}
    assert nodes_of(tmp_path, first.task_id) == ["one", "two"]

    # A state that is too large for a result is in its thread, though its node was the last.
    large = await host.run("ending.enlarges", {})
    assert large.result["thread_id"] == large.task_id
    async with RedisSaver(redis_config) as saver:
        found = await saver.aget_tuple({"configurable": {"thread_id": large.task_id}})
    assert found is not None
    assert len(found.checkpoint["channel_values"]["large"]) == 300_000
