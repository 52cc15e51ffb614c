"""Graphs that go on where they were: after the death of their worker, an answer, or the end of what they delegated."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.agent_run import RunOptions
from core.chaos.processes import Processes
from core.checkpoints.redis_saver import RedisSaver
from core.checkpoints.redis_storage import LET_GO_MS
from core.checkpoints.redis_store import RedisStore
from core.cli.app import app
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.errors import UnknownTask
from core.redis_backend.keys import CellKeys
from core.run_stream import StreamChunk
from core.tasks import Task
from tests.executor_bench import INTEGRATION
from tests.redis_server import RedisServer
from tests.tiers import SECRET, ForkedTiers, Tiers
from tests.waiting import until

AGENTS = str(INTEGRATION / "resuming_user_graphs.py")

# What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")


@pytest.fixture
def tiers(processes: Processes, redis_config: RedisConfig, tmp_path: Path) -> Iterator[Tiers]:
    with ForkedTiers(processes, redis_config, tmp_path, USER_CODE_FOLDER=str(tmp_path)) as tiers:
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        yield tiers


@pytest.fixture
def client(tiers: Tiers) -> Iterator[AgentClient]:
    config = A2AConfig(agent_id="c", token_secret=SECRET)
    with AgentClient(tiers.redis, config, "coordinator-1", "c") as client:
        yield client


def nodes_of(folder: Path, task_id: str) -> list[str]:
    """The nodes that a task has begun, in order."""
    file = folder / f"{task_id.replace('/', '-')}.nodes"
    return file.read_text().split() if file.exists() else []


def first_of(name: str, tiers: Tiers, task_id: str) -> Any:
    """What a client is given first of the run of a task, on another loop than its own; None: the task is unknown."""
    with AgentClient(tiers.redis, A2AConfig(agent_id="x", token_secret=SECRET), "coordinator-1", name) as reader:

        async def first() -> Any:
            return await anext(aiter(reader.stream(task_id, ["updates"])))

        try:
            return asyncio.run(first()).data
        except UnknownTask:
            return None


def ends_of_nodes(client: AgentClient, task_id: str) -> list[tuple[int, str]]:
    """The nodes of which the events of a run tell that they have ended, each with the attempt."""
    events = [chunk for chunk in client.stream(task_id, ["events"]) if chunk.mode == "events"]
    return [
        (chunk.attempt, chunk.data["name"])
        for chunk in events
        if chunk.data["event"] == "on_chain_end" and chunk.data["parent_ids"]
    ]


def test_a_graph_goes_on_where_it_was_when_its_worker_is_killed_a_question_answered_or_a_child_ends(
    tiers: Tiers, client: AgentClient, redis_config: RedisConfig, redis_server: RedisServer, tmp_path: Path
) -> None:
    tiers.start("worker", "w1", "--import", AGENTS)
    puts = client.submit(Task(task_type="remembers", payload={"large": "tea"}))
    assert client.value(puts, 60)["answer"] == ["tea"]
    told = RunOptions(stream=["updates", "values", "events"])
    task_id = client.submit(Task(task_type="five", payload={"done": []}, run=told))
    until(lambda: nodes_of(tmp_path, task_id)[-1:] == ["three"], "the third node runs")

    for chunk in client.stream(task_id, ["updates"]):  # while it runs
        if "two" in chunk.data:
            break
    assert first_of("d", tiers, task_id) is None  # it is another client's
    assert first_of("operator:o", tiers, task_id) == {"one": {"done": ["one"]}}
    tiers.kill("w1")
    tiers.start("worker", "w2", "--import", AGENTS)
    until(lambda: nodes_of(tmp_path, task_id)[-2:] == ["three", "three"], "the third node runs again")
    (tmp_path / "go").touch()

    assert client.value(task_id, 60) == {"done": ["one", "two", "three", "four", "five"]}
    assert nodes_of(tmp_path, task_id) == ["one", "two", "three", "three", "four", "five"]
    with redis_server.connect() as server:  # its own thread, which is needed only if its end was lost
        until(lambda: 0 < server.pttl(f"{{thread:{task_id}}}:values") <= LET_GO_MS, "the thread is let go")

    # What it has told while it ran comes in order, and says which attempt told it; the end comes once.
    chunks = list(client.stream(task_id, ["updates"]))
    assert [(chunk.attempt, chunk.mode, chunk.data) for chunk in chunks] == [
        *((1, "updates", {node: {"done": [node]}}) for node in ("one", "two")),
        (2, "lifecycle", {"attempt": 2}),
        *((2, "updates", {node: {"done": [node]}}) for node in ("three", "four", "five")),
        (2, "lifecycle", {"status": "completed"}),
    ]
    for place, chunk in enumerate(chunks[:-1]):
        assert list(client.stream(task_id, ["updates"], after=chunk.id)) == chunks[place + 1 :]
    assert ends_of_nodes(client, task_id) == [(1, "one"), (1, "two"), (2, "three"), (2, "four"), (2, "five")]
    assert first_of("d", tiers, task_id) is None
    assert first_of("c", tiers, task_id) == chunks[0].data  # a later session of its own

    # A question takes no process, and is answered once; the finished nodes do not run again.
    asks = client.submit(Task(task_id="asks", task_type="asks", payload={}, run=RunOptions(stream=["events"])))
    [question] = until(lambda: client.questions(task=asks), "it asks")
    assert (question.node, question.asks) == ("ask", {"draft": "hello"})
    client.answer(asks, question.interrupt_id, {"ok": True})
    assert client.value(asks, 60) == {"done": ["one", "ask", "two"], "answer": {"ok": True}}
    assert nodes_of(tmp_path, asks) == ["one", "ask", "ask", "two"]
    assert ends_of_nodes(client, asks) == [(1, "one"), (2, "ask"), (2, "two")]

    # Delegated tasks run as any other, and their results come in order.
    leads = client.submit(Task(task_type="leads", payload={}))
    short = {"done": ["one", "two"]}
    assert client.value(leads, 60) == {"done": ["one"], "answer": [short, short]}
    assert nodes_of(tmp_path, leads) == ["one", "lead", "lead"]

    # What the client says: a context, a thread that is continued, a stop before a node.
    greets = Task(task_type="greets", payload={}, run=RunOptions(context={"name": "Ada"}))
    assert client.value(client.submit(greets), 60) == {"done": [], "answer": ["Ada", "greets"]}
    for turns in (1, 2):
        turn = Task(task_type="short", payload={}, run=RunOptions(thread_id="talk"))
        assert client.value(client.submit(turn), 60) == {"done": ["one", "two"] * turns}
    with AgentClient(tiers.redis, A2AConfig(agent_id="d", token_secret=SECRET), "coordinator-1", "d") as other:
        ended = other.result(other.submit(Task(task_type="short", payload={}, run=RunOptions(thread_id="talk"))), 60)
        assert ended.error is not None
        assert ended.error.message == "thread 'talk' is another client's; choose another thread_id"
    stops = client.submit(
        Task(task_id="stops", task_type="short", payload={}, run=RunOptions(interrupt_before=["two"]))
    )
    [stop] = until(lambda: client.questions(task=stops), "it stops")
    assert (stop.interrupt_id, stop.asks) == ("breakpoint:two", None)
    client.answer(stops, stop.interrupt_id, None)
    assert client.value(stops, 60) == {"done": ["one", "two"]}

    # On the command line what it tells goes to stderr, and its final state to stdout.
    environment = {**tiers._environment, "A2A_CLIENT_ID": "c"}
    said = CliRunner().invoke(app, ["run", "short", "{}", "--thread", "talk"], env=environment, catch_exceptions=False)
    assert (said.exit_code, json.loads(said.stdout)) == (0, {"done": ["one", "two"] * 3})
    told_lines = [json.loads(line) for line in said.stderr.splitlines() if line.startswith("{")]
    assert told_lines[0] == {"mode": "updates", "data": {"one": {"done": ["one"]}}}
    assert told_lines[-1] == {"mode": "lifecycle", "data": {"status": "completed"}}

    # What was put in the store is found by other graphs, on other workers, in processes of their own, and by programs.
    # A graph that has a store keeps it.
    for task_type, finds in (("remembers", "tea"), ("remembers_alone", "tea"), ("remembers_itself", "her own")):
        found = client.value(client.submit(Task(task_type=task_type, payload={})), 60)
        assert (found["answer"], found["done"]) == ([finds], [finds, "people.ada"])
    with RedisStore(redis_config, name="coordinator-1") as store:
        likes = store.get(("people", "ada"), "likes")
        assert likes is not None
        assert likes.value == {"what": "tea"}

    # A state that is too large for a result is in its thread.
    large = client.submit(Task(task_type="enlarges", payload={}))
    assert client.value(large, 60)["thread_id"] == large
    with RedisSaver(redis_config) as saver:
        found = saver.get_tuple({"configurable": {"thread_id": large}})
        assert found is not None
        assert len(found.checkpoint["channel_values"]["large"]) == 300_000


def test_a_run_whose_end_was_lost_goes_on_at_its_last_node_however_late_that_is(
    tiers: Tiers, client: AgentClient, redis_server: RedisServer, processes: Processes, tmp_path: Path
) -> None:
    tiers.start("worker", "w1", "--import", AGENTS)
    task_id = client.submit(Task(task_type="five", payload={"done": []}))
    nodes, values = ["one", "two", "three", "four", "five"], f"{{thread:{task_id}}}:values"
    until(lambda: nodes_of(tmp_path, task_id) == nodes[:3], "the third node runs")

    # Its distributor dies before it has read the report of the end.
    processes.stop("distributor-1")
    (tmp_path / "go").touch()
    with redis_server.connect() as server:
        inbox = CellKeys("distributor-1").inbox
        until(lambda: '"completed"' in str(server.xrange(inbox)), "the end is told")
        kept_ms = server.pttl(values)
        tiers.kill("w1")
        tiers.kill("distributor-1")
        assert kept_ms > 100 * LET_GO_MS  # an attempt that begins hours later finds what the run has done
        tiers.start("distributor", "distributor-2")
        tiers.start("worker", "w2", "--distributor", "distributor-2", "--import", AGENTS)

        ended = client.result(task_id, 60)
        assert (ended.result, ended.attempt) == ({"done": nodes}, 2)
        assert nodes_of(tmp_path, task_id) == [*nodes, "five"]
        until(lambda: 0 < server.pttl(values) <= LET_GO_MS, "the thread is let go")


def test_a_reader_gets_all_modes_of_a_graph_and_those_below_it_and_no_gap_where_it_goes_on(
    tiers: Tiers, client: AgentClient
) -> None:
    tiers.start("worker", "w1", "--import", AGENTS)
    run = RunOptions(stream=["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "events"])
    task_id = client.submit(Task(task_type="speaks", payload={"messages": [["human", "hello"]]}, run=run))

    in_parts: list[StreamChunk] = []  # by a reader that goes away after every third chunk
    while not in_parts or "status" not in in_parts[-1].data:
        in_parts += islice(client.stream(task_id, after=in_parts[-1].id if in_parts else None), 3)
    chunks = list(client.stream(task_id))
    assert in_parts == chunks
    for place in range(0, len(chunks) - 1, 4):
        assert list(client.stream(task_id, after=chunks[place].id)) == chunks[place + 1 :]

    def told(mode: str, *, below: bool) -> list[Any]:
        """What the graph tells in a mode, or the one below it."""
        found = [chunk for chunk in chunks if chunk.mode == mode and bool(chunk.namespace) is below]
        assert all(chunk.namespace[0].startswith("speaker:") for chunk in found if below)
        return [chunk.data for chunk in found]

    result = client.value(task_id, 60)
    assert [message["content"] for message in result["messages"]] == ["hello", "It rains again.", "Yours."]
    assert (told("values", below=False)[-1], told("lifecycle", below=False)) == (result, [{"status": "completed"}])
    assert [*map(list, told("updates", below=False))] == [["speaker"], ["sign"]]
    assert [*map(list, told("updates", below=True))] == [["say"]]
    assert [message["content"] for message, _ in told("messages", below=True)] == ["It", " ", "rains", " ", "again."]
    assert {about["langgraph_node"] for _, about in told("messages", below=True)} == {"say"}
    assert (told("custom", below=True), told("custom", below=False)) == ([{"asks": 1}], [{"signs": True}])
    begun = [(task["name"], "input" in task) for task in told("tasks", below=False)]
    assert begun == [("speaker", True), ("speaker", False), ("sign", True), ("sign", False)]
    assert [task["name"] for task in told("tasks", below=True)] == ["say", "say"]
    assert [checkpoint["next"] for checkpoint in told("checkpoints", below=False)][-3:] == [["speaker"], ["sign"], []]
    for below in False, True:  # what `debug` tells is what the two others do, with the number of the superstep
        debugged = told("debug", below=below)
        steps = [each["payload"] for each in debugged if each["type"] == "checkpoint"]
        assert steps == told("checkpoints", below=below)
        assert [each["payload"] for each in debugged if each["type"] != "checkpoint"] == told("tasks", below=below)
        assert {each["step"] for each in debugged if each["type"] == "checkpoint"} == {
            step["metadata"]["step"] for step in steps
        }
    events = told("events", below=False)
    assert [event["event"] for event in events if event["name"] == "say"] == [
        "on_chain_start", "on_chain_stream", "on_chain_end"
    ]  # fmt: skip
    spoken = [event["data"]["chunk"]["content"] for event in events if event["event"] == "on_chat_model_stream"]
    assert spoken == ["It", " ", "rains", " ", "again."]
    assert (events[0]["event"], events[-1]["event"], events[-1]["data"]["output"]) == (
        "on_chain_start", "on_chain_end", result
    )  # fmt: skip
    by_itself = [
        event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream" and not event["parent_ids"]
    ]
    assert by_itself == [
        [[*chunk.namespace], chunk.mode, chunk.data] for chunk in chunks if chunk.mode not in ("events", "lifecycle")
    ]


def test_runs_go_on_where_they_were_when_their_process_is_killed_and_it_costs_them_no_attempt(
    tiers: Tiers, client: AgentClient, tmp_path: Path
) -> None:
    tiers.start("worker", "w1", "--import", AGENTS)
    # Several in each process, so that none of them is known to be guilty.
    ids = client.submit_many([Task(task_type="five", payload={}) for _ in range(6)])
    third = ["one", "two", "three"]
    until(lambda: all(nodes_of(tmp_path, task_id) == third for task_id in ids), "the third nodes run")

    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    until(lambda: any(nodes_of(tmp_path, task_id) == [*third, "three"] for task_id in ids), "some go on")
    (tmp_path / "go").touch()

    for task_id in ids:
        ended = client.result(task_id, 60)
        assert (ended.result, ended.attempt, ended.errors) == ({"done": [*third, "four", "five"]}, 1, ())
        assert nodes_of(tmp_path, task_id) in ([*third, "four", "five"], [*third, "three", "four", "five"])


def test_runs_that_are_killed_at_each_of_their_nodes_end_right_and_no_finished_node_runs_again(
    tiers: Tiers, client: AgentClient, tmp_path: Path
) -> None:
    tiers.start("worker", "w1", "--import", AGENTS)
    nodes = ["one", "two", "three", "four", "five"]
    ids = client.submit_many([Task(task_type="halts", payload={"done": [], "large": node}) for node in nodes])
    begun = [nodes[: place + 1] for place in range(len(nodes))]
    until(lambda: [nodes_of(tmp_path, task_id) for task_id in ids] == begun, "each run is at its node")

    tiers.kill("w1")
    (tmp_path / "go").touch()
    tiers.start("worker", "w2", "--import", AGENTS)

    for task_id, before in zip(ids, begun, strict=True):
        assert client.value(task_id, 60)["done"] == nodes
        assert nodes_of(tmp_path, task_id) == [*before, *nodes[len(before) - 1 :]]
