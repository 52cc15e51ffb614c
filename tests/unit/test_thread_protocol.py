"""What the chunks of a run become in a thread stream."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from msgspec.structs import replace

from core.gateway.protocol_events import DIED, Event, Numbers, RunTold, Wanted, number_at
from core.gateway.protocol_streams import is_past
from core.gateway.records import BEGINNING, RunRecord
from core.run_stream import StreamChunk
from core.task_status import TaskStatus
from core.tasks import Task, TaskError

RUN = RunRecord(
    run_id="run-1",
    thread_id="thread-1",
    task_id="run-1",
    assistant_id="assistant-1",
    graph_id="graph",
    created_at=datetime(2026, 11, 1, tzinfo=UTC),
)
AT_MS = 1_795_000_000_000


def told(chunks: Iterable[tuple[Any, ...]], task: Task | None = None) -> list[Event]:
    """The events of a run with these chunks, each a mode, data, and maybe a namespace and an attempt."""
    run = RunTold(RUN)
    events: list[Event] = []
    for place, (mode, data, *more) in enumerate(chunks):
        namespace, attempt = more[0] if more else (), more[1] if len(more) > 1 else 1
        events += run.chunk(StreamChunk(f"{AT_MS + place}-0/0", attempt, mode, namespace, data))
    return [*events, *run.end(task)]


def ended(status: str, error: str = "") -> Task:
    failure = TaskError(type="ValueError", message=error) if error else None
    return Task(task_id="run-1", task_type="graph", status=TaskStatus(status), error=failure)


def states(events: Iterable[Event]) -> list[Any]:
    return [(tuple(one.namespace), one.data["event"]) for one in events if one.method == "lifecycle"]


def part(message: BaseMessage, node: str = "say", **more: Any) -> tuple[str, Any]:
    metadata = {"langgraph_node": node, "langgraph_checkpoint_ns": f"{node}:1", **more}
    return "messages", [{**message.model_dump(), "type": message.type}, metadata]


def of_messages(events: Iterable[Event], message_id: str) -> list[Any]:
    return [
        {name: value for name, value in one.data.items() if name not in ("message_id", "metadata")}
        for one in events
        if one.method == "messages" and one.data["message_id"] == message_id
    ]


def test_a_run_begins_once_and_ends_as_its_task() -> None:
    for task, state in (
        (ended("completed"), "completed"),
        (ended("failed", "no such thing"), "failed"),
        (ended("cancelled"), "interrupted"),
        (None, "completed"),
    ):
        events = told([("values", {"done": 1, "__interrupt__": []})], task)
        assert states(events) == [((), "running"), ((), state)]
        assert [one.data for one in events if one.method == "values"] == [{"done": 1}]
    assert told([], ended("failed", "no such thing"))[-1].data["error"] == "no such thing"


def test_a_run_whose_task_is_known_no_more_ends_as_its_record_says() -> None:
    for ended_as, state in (("success", "completed"), ("interrupted", "interrupted"), ("timeout", "failed")):
        [begun, over] = RunTold(RUN).end(None, ended_as)
        assert (begun.data["event"], over.data["event"], "error" in over.data) == ("running", state, state == "failed")


def test_a_question_is_asked_once_and_breakpoints_are_none() -> None:
    question = {"value": "really?", "id": "q"}
    events = told(
        [("updates", {"__interrupt__": [question]}, ("inner:1",)), ("updates", {"__interrupt__": [question]})]
    )
    [asked] = [one for one in events if one.method == "input.requested"]
    assert (asked.channel, asked.namespace, asked.data["interrupt_id"]) == ("input", ("inner:1",), "q")
    assert states(events)[-1] == ((), "interrupted")
    assert told([("updates", {"__interrupt__": []})])[-1].data["event"] == "completed"


def test_subgraphs_begin_with_their_first_node_and_end_with_theirs() -> None:
    inside, deeper = ("tools:t1",), ("tools:t1", "more:t2")
    call = {"name": "researcher", "args": {}, "id": "call-1"}
    agent = {"lc_agent_name": "researcher"}
    begun: Any = {"triggers": [], "metadata": {}}
    events = told(
        [
            ("tasks", {"id": "t1", "name": "tools", "input": {"tool_call": call}, **begun}),
            ("tasks", {"id": "t3", "name": "model", "input": {}, **begun, "metadata": agent}, inside),
            ("tasks", {"id": "t4", "name": "deep", "input": {}, **begun}, deeper),
            ("tasks", {"id": "t2", "name": "more", "result": {}, "error": "broken", "interrupts": []}, inside),
            ("tasks", {"id": "t1", "name": "tools", "result": {}, "error": None, "interrupts": []}),
        ],
        ended("completed"),
    )
    assert states(events) == [
        ((), "running"), (inside, "started"), (deeper, "started"), (deeper, "failed"), (inside, "completed"),
        ((), "completed"),
    ]  # fmt: skip
    first = next(one.data for one in events if tuple(one.namespace) == inside)
    assert (first["graph_name"], first["trigger_call_id"]) == ("researcher", "t1")
    assert first["cause"] == {"type": "toolCall", "tool_call_id": "call-1"}


def test_subgraphs_that_nobody_has_ended_end_with_the_run() -> None:
    begun = {"id": "t3", "name": "model", "input": {}, "triggers": []}
    events = told([("tasks", begun, ("inner:t1",))], ended("failed", "no such thing"))
    assert states(events)[-2:] == [(("inner:t1",), "failed"), ((), "failed")]


def test_a_message_grows_block_by_block() -> None:
    usage: Any = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    said = [
        AIMessageChunk(
            content=[{"type": "reasoning", "reasoning": "hm"}], id="m", response_metadata={"output_version": "v1"}
        ),
        AIMessageChunk(content="It ", id="m"),
        AIMessageChunk(content="rains.", id="m"),
        AIMessageChunk(
            content="", id="m", tool_call_chunks=[tool_call_chunk(name="look", args='{"at"', id="call-1", index=0)]
        ),
        AIMessageChunk(
            content="", id="m", tool_call_chunks=[tool_call_chunk(name=None, args=": 1}", id=None, index=0)]
        ),
        AIMessageChunk(
            content="", id="m", tool_call_chunks=[tool_call_chunk(name="look", args="{", id="call-2", index=1)]
        ),
        AIMessageChunk(content="", id="m", usage_metadata=usage, chunk_position="last"),
    ]
    events = of_messages(told([part(one) for one in said]), "m")
    assert [one["event"] for one in events] == [
        "message-start",
        *("content-block-start", "content-block-delta", "content-block-finish"),
        *("content-block-start", "content-block-delta", "content-block-delta", "content-block-finish"),
        *("content-block-start", "content-block-delta", "content-block-delta", "content-block-finish"),
        *("content-block-start", "content-block-delta", "content-block-finish"),
        "message-finish",
    ]
    whole = [one["content"] for one in events if one["event"] == "content-block-finish"]
    assert [(one["type"], one.get("text"), one.get("args")) for one in whole] == [
        ("reasoning", None, None), ("text", "It rains.", None), ("tool_call", None, {"at": 1}),
        ("invalid_tool_call", None, "{"),
    ]  # fmt: skip
    assert events[-1]["usage"] == usage


def test_a_message_is_finished_by_an_empty_part_of_another_id_or_with_its_node() -> None:
    last = AIMessageChunk(content="", id="lc_run--1", chunk_position="last")
    events = told([part(AIMessageChunk(content="hi", id="m")), part(last), ("values", {})])
    assert of_messages(events, "m")[-1]["event"] == "message-finish"
    assert of_messages(events, "lc_run--1") == []
    whole = told([part(AIMessageChunk(content="hi", id="m")), part(AIMessage("", id="n"))], ended("completed"))
    assert [one["event"] for one in of_messages(whole, "n")] == ["message-start", "message-finish"]
    over = {"id": "1", "name": "say", "result": {}, "interrupts": []}
    events = told([part(AIMessageChunk(content="hi", id="m")), ("tasks", over), ("values", {})])
    assert [one.method for one in events][-4:] == ["messages", "messages", "values", "lifecycle"]
    assert of_messages(events, "m")[-1] == {"event": "message-finish"}


def test_messages_of_nodes_side_by_side_are_told_apart() -> None:
    one, two = (AIMessageChunk(content=text, id=text) for text in ("one", "two"))
    events = told([part(one, "a"), part(two, "b"), part(one, "a"), part(two, "b")])
    for name, node in ("one", "a"), ("two", "b"):
        deltas = [said["delta"]["text"] for said in of_messages(events, name) if said["event"].endswith("delta")]
        assert deltas == [name, name]
        assert {said.node for said in events if said.method == "messages" and said.data["message_id"] == name} == {node}


def test_a_node_that_ends_finishes_no_message_of_its_twin() -> None:
    parts = {
        name: part(AIMessageChunk(content=name, id=name), langgraph_checkpoint_ns=f"outer:0|say:{name}")
        for name in ("one", "two")
    }
    over = {"id": "one", "name": "say", "result": {}, "interrupts": []}
    events = told([parts["one"], parts["two"], ("tasks", over, ("outer:0",)), parts["two"]], ended("completed"))
    assert of_messages(events, "one")[-1] == {"event": "message-finish"}
    assert [said["event"] for said in of_messages(events, "two")].count("message-start") == 1
    deltas = [said["delta"]["text"] for said in of_messages(events, "two") if said["event"] == "content-block-delta"]
    assert deltas == ["two", "two"]


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ([{"type": "text", "text": 5}], {}),
        ([{"type": "reasoning", "reasoning": ["hm"]}], {}),
        ([{"type": "reasoning", "summary": 5}], {"model_provider": "openai"}),
        ([{"type": "text", "text": "hi"}], {"model_provider": ["openai"]}),
        ([{"type": "tool_call_chunk", "args": {"at": 1}}], {"output_version": "v1"}),
        ([{}], {"output_version": "v1"}),
    ],
)
def test_a_message_that_nobody_understands_is_told_as_it_is(content: Any, more: dict[str, Any]) -> None:
    for kind in AIMessage, AIMessageChunk:
        said = kind(content=content, id="m", response_metadata=more)
        events = told([part(said), part(AIMessage("hi", id="n"))], ended("completed"))
        [block] = [one["content"] for one in of_messages(events, "m") if one["event"] == "content-block-start"]
        assert (block["type"], *block["value"]) in (("non_standard", "content"), ("non_standard", *content[0]))
        assert of_messages(events, "n")[-1] == {"event": "message-finish"}


def test_whole_messages_are_told_at_once_and_those_of_tools_elsewhere() -> None:
    events = told(
        [part(HumanMessage("hi", id="h")), part(AIMessage("yes", id="a")), part(ToolMessage("8", tool_call_id="1"))]
    )
    for name, role in ("h", "human"), ("a", "ai"):
        whole = of_messages(events, name)
        assert (whole[0]["role"], whole[-1]["event"]) == (role, "message-finish")
    assert {one.data["message_id"] for one in events if one.method == "messages"} == {"h", "a"}


def test_a_message_of_an_attempt_that_died_ends_as_an_error() -> None:
    half = AIMessageChunk(content="half", id="m")
    events = told([part(half), ("values", {}, (), 2)], ended("completed"))
    assert of_messages(events, "m")[-1] == {"event": "error", "message": DIED}
    assert states(events) == [((), "running"), ((), "completed")]


def test_every_event_has_an_id_of_its_own_and_the_same_whenever_it_is_told() -> None:
    begun = {"id": "t3", "name": "model", "input": {}, "triggers": []}
    chunks = [part(AIMessageChunk(content="hi", id="m")), ("tasks", begun, ("inner:t1",)), ("custom", {"name": "x"})]
    ids = [one.id for one in told(chunks, ended("completed"))]
    assert None not in ids
    assert len({*ids}) == len(ids)
    assert ids == [one.id for one in told(chunks, ended("completed"))]
    assert (ids[0], ids[-1]) == ("synth:run-1:lc||running", "synth:run-1:lc||completed")


def test_what_was_too_large_to_be_told_is_no_event() -> None:
    for mode in "values", "updates", "messages", "tasks", "checkpoints", "custom", "tools":
        events = told([(mode, {"left_out_bytes": 300_000})], ended("completed"))
        assert [one.method for one in events] == ["lifecycle", "lifecycle"]


def test_a_run_that_was_answered_is_past_when_it_has_asked_and_not_when_its_task_ends() -> None:
    asked, now = AT_MS - 60_000, datetime.fromtimestamp(AT_MS / 1000, UTC)
    before = now - timedelta(seconds=30)
    running = replace(ended("in_progress"), updated_at=now)
    run = replace(RUN, until=f"{asked}-0/7")
    assert is_past(run, running, before)
    assert not is_past(run, running, before - timedelta(seconds=31)), "for who has heard nothing since"
    assert not is_past(RUN, running, before)
    assert is_past(replace(RUN, until=BEGINNING), running, before), "it has told nothing"
    assert not is_past(RUN, replace(ended("completed"), updated_at=now), before)


def test_numbers_go_up_and_say_when() -> None:
    numbers = Numbers()
    given = [numbers.next(at_ms) for at_ms in (AT_MS, AT_MS, AT_MS + 1, AT_MS)]
    assert given[0] == number_at(AT_MS)
    assert given == sorted({*given})
    assert given[2] == number_at(AT_MS + 1)
    assert number_at(AT_MS + 30 * 365 * 86_400_000) < 2**53


@pytest.mark.parametrize(
    ("wanted", "event", "taken"),
    [
        (Wanted(frozenset({"values"})), Event("values", {}, ("a:1",)), True),
        (Wanted(frozenset({"values"})), Event("updates", {}), False),
        (Wanted(frozenset({"values"}), [[]], 0), Event("values", {}, ("a:1",)), False),
        (Wanted(frozenset({"values"}), [["a"]], 0), Event("values", {}, ("a:1",)), True),
        (Wanted(frozenset({"values"}), [["a:2"]]), Event("values", {}, ("a:1", "b:1")), False),
        (Wanted(frozenset({"values"}), [["a:1"]]), Event("values", {}, ("a:1", "b:1")), True),
        (Wanted(frozenset({"custom:x"})), Event("custom", {"name": "x"}), True),
        (Wanted(frozenset({"custom:x"})), Event("custom", {"name": "y"}), False),
        (Wanted(frozenset({"custom"})), Event("custom", {"name": "y"}), True),
        (Wanted(frozenset({"input"})), Event("input.requested", {}), True),
    ],
)
def test_a_client_hears_what_it_has_subscribed_to(wanted: Wanted, event: Event, *, taken: bool) -> None:
    assert wanted.takes(event) is taken
