"""`client.threads` and `agents threads update`, on a running hierarchy: whose threads are, and how a state changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.agent_run import RunOptions, StateUpdate
from core.chaos.processes import Processes
from core.cli.app import app
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.errors import BadTask, TaskFailed, TaskTimeout
from core.tasks import Task
from tests.executor_bench import INTEGRATION, Bench, memory_of
from tests.redis_server import RedisServer
from tests.tiers import SECRET, ForkedTiers
from tests.waiting import until

AGENTS = str(INTEGRATION / "ending_user_graphs.py")

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

Open = Callable[[str], AgentClient]


@pytest.fixture(scope="module")
def tiers(redis_server: RedisServer, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Opens clients of a hierarchy with one worker."""
    redis_server.clean()
    redis = RedisConfig(url=redis_server.url, password=redis_server.password, mode="external")
    folder, opened = tmp_path_factory.mktemp("tiers"), list[AgentClient]()

    def client(name: str) -> AgentClient:
        opened.append(AgentClient(redis, A2AConfig(agent_id="c", token_secret=SECRET), "coordinator-1", name))
        return opened[-1]

    with ForkedTiers(processes, redis, folder, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as tiers:
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        tiers.start("worker", "w1", "--import", AGENTS)
        yield client
        for each in opened:
            each.close()


def ran(client: AgentClient, thread_id: str, task_type: str = "ending.two", payload: object = None) -> object:
    run = RunOptions(thread_id=thread_id)
    return client.value(client.submit(Task(task_type=task_type, payload=payload, run=run)), 60)


def test_a_thread_is_shown_copied_forked_and_forgotten_by_its_client_alone(tiers: Open) -> None:
    ada, bob, operator = tiers("ada"), tiers("bob"), tiers("operator:o")
    ran(ada, "hers", payload={})
    ran(bob, "his", payload={})
    assert (ada.threads.list(), bob.threads.list(), operator.threads.list()) == (["hers"], ["his"], ["hers", "his"])
    assert (ada.threads.state("hers").values, ada.threads.state("hers").owner) == (
        {"done": ["one", "two"]},
        "client:ada",
    )
    states = ada.threads.history("hers")
    assert [state.values.get("done") for state in states] == [["one", "two"], ["one"], None, None]
    assert ada.threads.state("hers", states[1].checkpoint_id) == states[1]

    for refused in (
        lambda: bob.threads.state("hers"),
        lambda: bob.threads.history("hers"),
        lambda: bob.threads.copy("hers", "mine"),
        lambda: bob.threads.fork("hers", states[1].checkpoint_id, "mine"),
        lambda: bob.threads.delete("hers"),
        lambda: bob.threads.update_state("hers", {"done": ["bob"]}),
    ):
        with pytest.raises(BadTask, match="thread 'hers' is another client's"):
            refused()

    ada.threads.copy("hers", "copy")
    ada.threads.fork("hers", states[1].checkpoint_id, "fork")
    assert ran(ada, "fork") == {"done": ["one", "two"]}  # without an input it goes on where the thread is
    assert operator.threads.state("copy").owner == "client:ada"
    for thread_id in ("copy", "fork", "hers"):
        ada.threads.delete(thread_id)
    ada.threads.delete("hers")
    assert (ada.threads.list(), operator.threads.list()) == ([], ["his"])
    bob.threads.delete("his")


async def test_a_state_is_updated_as_the_reducers_of_its_graph_say(tiers: Open) -> None:
    async with tiers("eve") as eve:
        made = await eve.threads.update_state.aio("new", {"done": ["before"]}, "one", graph="ending.two")
        assert (await eve.threads.state.aio("new")).checkpoint_id == made
        run = RunOptions(thread_id="new")
        task_id = await eve.submit.aio(Task(task_type="ending.two", payload=None, run=run))
        assert await eve.value.aio(task_id, 60) == {"done": ["before", "two"]}  # after `one`, `two` is next

        await eve.threads.update_state.aio("new", {"done": ["from here"]}, as_node="one", checkpoint_id=made)
        newest = await eve.threads.state.aio("new")
        assert (newest.values, newest.source, newest.parent_id) == (
            {"done": ["before", "from here"]}, "update", made,
        )  # fmt: skip
        assert (newest.owner, newest.graph) == ("client:eve", "ending.two")

        with pytest.raises(TaskFailed, match="Node three does not exist"):
            await eve.threads.update_state.aio("new", {"done": []}, as_node="three")
        with pytest.raises(TaskFailed, match="thread 'new' has no checkpoint 'none'"):
            await eve.threads.update_state.aio("new", {"done": []}, checkpoint_id="none")
        with pytest.raises(BadTask, match="there is no thread 'none'"):
            await eve.threads.update_state.aio("none", {"done": []})
        assert await eve.threads.state.aio("new") == newest
        await eve.threads.delete.aio("new")


def test_an_update_waits_for_the_run_that_has_its_thread_and_may_give_up(tiers: Open) -> None:
    client = tiers("fay")
    ran(client, "busy", payload={})
    asks = client.submit(Task(task_type="ending.asks", payload={}, run=RunOptions(thread_id="busy")))
    [question] = until(lambda: client.questions(task=asks), "it asks")

    with pytest.raises(TaskTimeout, match="thread 'busy' is busy"):
        client.threads.update_state("busy", {"done": ["too early"]}, "ask", timeout_s=0.3)
    update = Task(
        task_type="ending.asks",
        payload={"done": ["updated"]},
        run=RunOptions(thread_id="busy", update=StateUpdate(as_node="ask")),
    )
    waits = client.submit(update)
    client.answer(asks, question.interrupt_id, "this")
    assert client.value(asks, 60) == {"done": ["one", "two", "this"]}
    assert client.value(waits, 60)["thread_id"] == "busy"
    assert client.threads.state("busy").values == {"done": ["one", "two", "this", "updated"]}
    client.threads.delete("busy")


def test_a_thread_is_deleted_in_its_line_and_what_asks_there_is_given_up(tiers: Open) -> None:
    client = tiers("gus")
    asks = client.submit(Task(task_type="ending.asks", payload={}, run=RunOptions(thread_id="gone")))
    until(lambda: client.questions(task=asks), "it asks")

    client.threads.delete("gone", graph="ending.asks")

    assert client.result(asks, 60).status == "cancelled"
    assert "gone" not in client.threads.list()
    assert ran(client, "gone", payload={}) == {"done": ["one", "two"]}
    client.threads.delete("gone", graph="ending.two")


def test_a_state_is_updated_on_the_command_line(tiers: Open, redis_server: RedisServer) -> None:
    client = tiers("gil")
    ran(client, "told", payload={})
    secret = {"A2A_TOKEN_SECRET": SECRET, "COORDINATOR_ID": "coordinator-1"}
    said = CliRunner().invoke(
        app, ["threads", "update", "told", '{"done": ["three"]}', "--as-node", "two"],
        env={**redis_server.environment, **secret}, catch_exceptions=False,
    )  # fmt: skip
    newest = client.threads.state("told")
    assert (said.exit_code, said.stdout) == (0, f"told goes on from {newest.checkpoint_id}\n")
    assert (newest.values, newest.owner) == ({"done": ["one", "two", "three"]}, "client:gil")
    client.threads.delete("told")


async def test_an_update_whose_end_was_lost_is_made_once(
    redis_config: RedisConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER_CODE_FOLDER", str(tmp_path))
    bench = Bench(agent_concurrency=10, hosts=1, code=AGENTS)
    update = RunOptions(thread_id="t", update=StateUpdate(as_node="one"))
    async with memory_of(redis_config) as memory:
        await bench.executor.start(memory)
        for attempt in (1, 2):
            task = bench.submit("ending.two", {"done": ["x"]}, task_id="u", attempt=attempt, run=update, thread_order=1)
            assert (await bench.end_of(task)).status == "completed"
        found = await bench.run("ending.two", None, run=RunOptions(thread_id="t"), thread_order=2)
        await bench.executor.close()
    assert found.result == {"done": ["x", "two"]}
