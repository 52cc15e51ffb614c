"""What agents tell in the event stream of their hierarchy, and what their clients read of it."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.agent import CoordinatorAgent
from core.agent_event import AgentEvent
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.event_types import EventLevel, EventType
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Address, Role
from core.signing import KeyRing
from core.tasks import Task
from tests.builders import SECRET
from tests.integration import telling_user_code
from tests.integration.hierarchy import FAST, House, add, signed_as
from tests.integration.speaker import Redis
from worker.authoring.handlers import HANDLERS
from worker.authoring.registry import Handlers

E = EventType
COORDINATOR = Address(Role.COORDINATOR, "k")


async def until(client: AgentClient, last: EventType, task_id: str, **wanted: str) -> list[AgentEvent]:
    """What is told from the beginning until that has become of the task."""
    told = []
    async for event in client.events(after="0", **wanted):
        told.append(event)
        if event.type == last and event.task_id == task_id:
            break
    return told


async def test_the_life_of_a_task_is_told_by_whom_it_concerns(full: House) -> None:
    me = await full.client()
    await me.submit.aio(add("t", 1, 2))

    told = await until(me, E.TASK_COMPLETED, "t", task="t")

    [worker] = {event.data["worker"] for event in told if event.type == E.ATTEMPT_STARTED}
    assert [(event.type, event.agent_id, event.data) for event in told] == [
        (E.TASK_SUBMITTED, "coordinator:k", {"task_type": "add", "client": "client:client"}),
        (E.TASK_ASSIGNED, "coordinator:k", {"distributor": "d"}),
        (E.ATTEMPT_STARTED, "distributor:d", {"worker": worker, "attempt": 1}),
        (E.ATTEMPT_COMPLETED, "distributor:d", {"worker": worker, "attempt": 1, "run_ms": told[3].data["run_ms"]}),
        (E.TASK_COMPLETED, "coordinator:k", {"attempt": 1, "worker": f"d/{worker}"}),
    ]
    assert {event.root_id for event in told} == {"t"}
    assert [event.timestamp for event in told] == sorted(event.timestamp for event in told)


# ---- what happens inside of attempts ----


WATCHED = FAST.model_copy(update={"events": EventLevel.ALL})


@pytest.fixture
async def watched(agents: House) -> House:
    handlers = Handlers()
    for handler in HANDLERS:
        if handler.module == telling_user_code.__name__:
            handlers.add(handler)
    await agents.coordinator(config=WATCHED)
    await agents.distributor(config=WATCHED)
    await agents.worker(config=WATCHED, handlers=handlers, modules=[telling_user_code.__name__])
    return agents


async def inside(home: House, task_type: str, payload: Any) -> tuple[list[tuple[str, str | None, Any]], Task]:
    """What user code has told while a task ran: type, node, data; and the task, ended."""
    me = await home.client()
    await me.submit.aio(Task(task_id="t", task_type=task_type, payload=payload))
    ended = await me.result.aio("t", timeout_s=20)
    told = await until(me, E.TASK_COMPLETED, "t", task="t")
    assert {event.agent_id for event in told if event.type.level is EventLevel.ALL} == {"worker:d/w"}
    return [(one.type, one.node_id, one.data) for one in told if one.type.level is EventLevel.ALL], ended


async def test_a_function_tells_its_events_its_progress_and_what_it_prints(watched: House) -> None:
    told, _ = await inside(watched, "tells", 1)

    assert ("goal_progress", "planner", {"progress": 0.5}) in told
    assert ("task_output", None, {"text": "a line that it prints"}) in told


async def test_a_coroutine_tells_its_events(watched: House) -> None:
    told, _ = await inside(watched, "tells_on_the_loop", [1])

    assert ("custom", None, {"payload": [1]}) in told


async def test_what_is_published_on_the_bus_of_an_attempt_is_told_and_nothing_that_agents_tell(watched: House) -> None:
    told, ended = await inside(watched, "publishes", 7)

    assert ended.result[0] == {"first": 7}
    assert told == [("custom", None, {"first": 7}), ("custom", None, {"last": 7})]


async def test_what_is_no_event_is_refused_in_words_and_a_flood_is_bounded_and_counted(watched: House) -> None:
    told, ended = await inside(watched, "tells_too_much", None)

    assert [sentence.split(".")[0] for sentence in ended.result] == [
        "only agents tell of task_completed", "there is no type of event 'no_such_type'",
        "an event's data has 20008 bytes as JSON, over 16384: tell less",
        "data has a key that is int, and has to be text",
    ]  # fmt: skip
    numbers = [data["number"] for kind, _, data in told if kind == "custom"]
    assert numbers == sorted(set(numbers))
    assert numbers


async def test_a_graph_tells_its_nodes_models_tools_and_what_it_writes(watched: House) -> None:
    told, ended = await inside(watched, "telling_graph", {"text": "four"})

    assert ended.result == {"text": "four", "verdict": "four letters"}
    kinds = [kind for kind, _, _ in told]
    calls = ["tool_call_started", "tool_call_completed", "llm_started", "llm_completed"]
    assert [kind for kind in kinds if kind in calls] == calls
    assert sorted(kinds) == sorted([*calls, "node_started", "custom", "node_completed"])
    assert {node for kind, node, _ in told if kind != "custom"} == {"judge"}
    assert [data for kind, _, data in told if kind == "custom"] == [{"heard": "four"}]
    [used] = [data for kind, _, data in told if kind == "tool_call_completed"]
    assert (used["tool_name"], used["result"], used["is_error"]) == ("letters", 4, False)


# ---- what must not happen because of events ----


@pytest.mark.parametrize("foreign", [("SET", "x"), ("XADD", f"{2**64 - 1}-{2**64 - 1}", "f", "v")])
async def test_what_cannot_be_told_stops_no_task(full: House, client: Redis, foreign: tuple[str, ...]) -> None:
    key, [command, *arguments] = CoordinatorKeys("k").events, foreign
    me = await full.client()
    await client.delete(key)
    await client.execute_command(command, key, *arguments)

    await me.submit.aio(add("t", 1, 2))
    assert (await me.result.aio("t", timeout_s=20)).result == 3


async def test_a_hierarchy_that_is_to_tell_nothing_writes_no_stream(agents: House, client: Redis) -> None:
    silent = FAST.model_copy(update={"events": EventLevel.OFF})
    await agents.coordinator(config=silent)
    await agents.distributor(config=silent)
    await agents.worker(config=silent)
    me = await agents.client()
    await me.submit.aio(add("t", 1, 2))
    assert (await me.result.aio("t", timeout_s=20)).result == 3

    assert not await client.exists(CoordinatorKeys("k").events)


async def test_a_client_with_only_its_own_key_reads_events_too(full: House) -> None:
    own = KeyRing.from_secret(SECRET, (COORDINATOR, Address(Role.CLIENT, "bob"))).export()
    bob = await full.client("bob", token_secret=None, agent_key=own)
    await bob.submit.aio(add("t", 1, 2))

    first, *_ = await until(bob, E.TASK_COMPLETED, "t", task="t")
    assert first.type == E.TASK_SUBMITTED


def test_a_program_without_a_loop_reads_them_with_for(redis_config: RedisConfig) -> None:
    with CoordinatorAgent("k", redis_config, signed_as("k"), FAST) as coordinator:
        client = AgentClient(redis_config, signed_as("client"), "k")
        with client:
            coordinator.register_distributor("d")
            first = next(iter(client.events(after="0")))
    assert (first.type, first.agent_id) == (E.LEASE_ACQUIRED, "coordinator:k")
