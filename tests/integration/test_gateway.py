"""The SDK of LangGraph, unchanged, drives a hierarchy through two gateways, over real processes."""

from __future__ import annotations

import asyncio
import json
import operator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from typing_extensions import TypedDict

from tests.gateway_door import EMPTY, WORKERS, Door, data_of, start_worker
from tests.waiting import until_async


async def test_each_graph_is_an_assistant(sdk: LangGraphClient) -> None:
    found = await sdk.assistants.search()
    assert [one["graph_id"] for one in found] == [
        "alone",
        "asks",
        "chats",
        "doubles",
        "fails",
        "greets",
        "nests",
        "owns",
        "recalls",
        "steps",
    ]
    assert await sdk.assistants.count(graph_id="steps") == 1
    assert await sdk.assistants.get("steps") == await sdk.assistants.get(found[-1]["assistant_id"])
    with pytest.raises(
        NotFoundError, match="there are alone, asks, chats, doubles, fails, greets, nests, owns, recalls, steps, tells"
    ):
        await sdk.assistants.get("nobody")


async def test_a_run_without_a_thread_is_waited_for(sdk: LangGraphClient, door: Door) -> None:
    assert await sdk.runs.wait(None, "steps", input=EMPTY) == {"done": ["first", "second"]}
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        assert sync.runs.wait(None, "steps", input=EMPTY | {"done": ["x"]}) == {"done": ["x", "first", "second"]}
    with pytest.raises(Exception, match="ValueError: no such thing"):
        await sdk.runs.wait(None, "fails", input={})


async def test_a_stream_tells_each_mode_and_its_end(sdk: LangGraphClient) -> None:
    told = [
        part async for part in sdk.runs.stream(None, "steps", input=EMPTY, stream_mode=["values", "updates", "custom"])
    ]
    assert told[0].event == "metadata"
    assert told[0].data["attempt"] == 1
    assert told[-1].event == "end"
    assert data_of(told, "custom") == [{"at": "first"}, {"at": "second"}]
    assert data_of(told, "updates") == [
        {"first": {"done": ["first"]}},
        {"second": {"done": ["second"]}},
    ]
    assert [part.data["done"] for part in told if part.event == "values"] == [[], ["first"], ["first", "second"]]


async def test_debug_tells_what_the_graph_tells_by_itself(sdk: LangGraphClient) -> None:
    class Steps(TypedDict):
        done: Annotated[list[str], operator.add]

    def first(state: Steps) -> Steps:
        return {"done": ["first"]}

    def second(state: Steps) -> Steps:
        return {"done": ["second"]}

    def shown(told: dict[str, Any]) -> list[Any]:
        """All but what differs from run to run: ids, moments, and what is ours in the metadata."""
        payload = told["payload"]
        what = [payload.get(name) for name in ("name", "input", "values", "result", "next", "interrupts")]
        about = payload.get("metadata", {})
        at = [about.get(name) for name in ("source", "step")]
        tasks = [[task["name"], task.get("result")] for task in payload.get("tasks", ())]
        return [told["type"], told["step"], sorted(payload), what, at, tasks]

    graph: Any = StateGraph(Steps).add_sequence([first, second]).add_edge(START, "first")
    graph = graph.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t"}, "metadata": {"of": "the run"}}
    alone = [shown(told) for told in graph.stream(EMPTY, thread, stream_mode="debug", durability="sync")]
    told = [part async for part in sdk.runs.stream(None, "steps", input=EMPTY, stream_mode="debug")]
    assert [shown(data) for data in data_of(told, "debug")] == json.loads(json.dumps(alone))


async def test_events_tell_what_langchain_does_and_what_the_graph_streams(sdk: LangGraphClient) -> None:
    def by_itself(told: list[Any]) -> list[Any]:
        """What the graph streams, as the events say."""
        streamed = [each for each in data_of(told, "events") if each["event"] == "on_chain_stream"]
        return [each["data"]["chunk"] for each in streamed if not each["parent_ids"]]

    thread = (await sdk.threads.create())["thread_id"]
    asked = [part async for part in sdk.runs.stream(thread, "nests", input=EMPTY, stream_mode="events")]
    assert {part.event for part in asked} == {"metadata", "events", "values", "end"}
    [question] = [told["__interrupt__"] for told in data_of(asked, "values")]
    assert [(mode, [*told]) for mode, told in by_itself(asked)] == [("updates", ["__interrupt__"])]
    assert by_itself(asked)[0][1]["__interrupt__"][0]["value"] == question[0]["value"]
    assert "first" in [each["name"] for each in data_of(asked, "events") if each["event"] == "on_chain_end"]

    answer: Any = {"command": {"resume": "yes"}, "stream_mode": ["updates", "events"], "stream_subgraphs": True}
    told = [part async for part in sdk.runs.stream(thread, "nests", **answer)]
    streamed = [["updates", *part.event.split("|")[1:], part.data] for part in told if "updates" in part.event]
    assert [[mode, *namespace, data] for namespace, mode, data in by_itself(told)] == streamed
    assert [[*data] for *_, data in streamed] == [["approve"], ["inner"], ["second"]]
    steps = [each["event"] for each in data_of(told, "events") if each["name"] == "second"]
    assert steps == ["on_chain_start", "on_chain_stream", "on_chain_end"]


async def test_an_answer_adds_the_modes_that_it_names(sdk: LangGraphClient, other: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "asks", input=EMPTY)
    answer: Any = {"command": {"resume": "yes"}, "stream_mode": ["debug", "events", "checkpoints"]}
    told = [part async for part in other.runs.stream(thread, "asks", **answer)]
    assert {part.event for part in told} == {"metadata", "debug", "events", "checkpoints", "end"}
    ended = [each["name"] for each in data_of(told, "events") if each["event"] == "on_chain_end"]
    assert {"approve", "second"} <= {*ended}
    assert [each["values"]["done"] for each in data_of(told, "checkpoints")][-1] == ["first", "yes", "second"]


async def test_messages_are_told_as_parts_or_as_they_grow(sdk: LangGraphClient) -> None:
    said: Any = {"messages": [{"role": "user", "content": "hi"}]}
    parts = [part async for part in sdk.runs.stream(None, "chats", input=said, stream_mode="messages-tuple")]
    assert "".join(part.data[0]["content"] for part in parts if part.event == "messages") == "hello there"
    grown = [part async for part in sdk.runs.stream(None, "chats", input=said, stream_mode="messages")]
    assert [part.event for part in grown][:2] == ["metadata", "messages/metadata"]
    assert [part.data[0]["content"] for part in grown if part.event == "messages/partial"][-1] == "hello there"


async def test_what_is_hard_to_tell_breaks_no_stream_and_no_thread(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    given: Any = {"input": {"messages": [], "count": 4}, "stream_mode": ["custom", "messages", "values", "events"]}
    told = [part async for part in sdk.runs.stream(thread, "tells", **given)]

    custom = data_of(told, "custom")
    assert [each["value"] for each in custom[:5]] == [1e308, f"-1{'0' * 400}", f"1{'0' * 5000}", None, None]
    assert [list(each) for each in custom[5:-1]] == [["left_out"]] * 2 + [["value"]] * 2 + [["left_out"]]
    assert custom[-1] == "the last"
    assert [said.data[0]["content"] for said in told if said.event in ("messages/partial", "messages/complete")] == [
        "a note", "said",
    ]  # fmt: skip
    left_out = [each for each in data_of(told, "messages/metadata") if {"left_out", "left_out_bytes"} & set(each)]
    assert len(left_out) == 1
    assert (told[-2].event, told[-1].event) == ("error", "end")

    state: Any = await sdk.threads.get_state(thread)
    assert (state["values"]["raw"], len(state["values"]["messages"])) == ("_w==", 3)
    [found] = await sdk.threads.search(ids=[thread], values={"count": 4}, extract={"raw": "values.raw"})
    assert found["extracted"] == {"raw": "_w=="}

    joined: Any = await sdk.threads.join_stream(thread, last_event_id="-")
    async with asyncio.timeout(30), aclosing(joined):
        async for part in joined:
            if part.event == "metadata" and part.data.get("status") == "run_done":
                break
    async with asyncio.timeout(30), sdk.threads.stream(assistant_id="tells") as stream:
        await stream.run.start(input={"messages": [], "count": 4})
        statuses = []
        async for event in stream.events:
            if event["method"] == "lifecycle":
                statuses.append(event["params"]["data"]["event"])
                if len(statuses) == 2:
                    break
    assert statuses == ["running", "failed"]


async def test_a_question_ends_a_run_and_the_answer_is_the_next_at_any_gateway(
    sdk: LangGraphClient, other: LangGraphClient
) -> None:
    thread = (await sdk.threads.create(metadata={"of": "ada"}))["thread_id"]
    asked: Any = await sdk.runs.wait(thread, "asks", input=EMPTY)
    assert asked["done"] == ["first"]
    assert [question["value"] for question in asked["__interrupt__"]] == [{"question": "really?"}]
    assert (await other.threads.get(thread))["status"] == "interrupted"

    told = [part async for part in other.runs.stream(thread, "asks", command={"resume": "yes"}, stream_mode="updates")]

    assert data_of(told, "updates") == [
        {"approve": {"done": ["yes"]}},
        {"second": {"done": ["second"]}},
    ]
    assert told[-1].event == "end"
    assert (await sdk.threads.get(thread))["status"] == "idle"
    after, before = await sdk.runs.list(thread)
    assert (after["status"], before["status"]) == ("success", "interrupted")
    again = [part async for part in sdk.runs.join_stream(thread, after["run_id"])]
    assert data_of(again, "updates") == data_of(told, "updates")
    with pytest.raises(ConflictError, match="asks nothing"):
        await sdk.runs.create(thread, "asks", command={"resume": "no"})


async def test_a_new_input_takes_the_place_of_a_question(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "asks", input=EMPTY | {"done": ["a"]})
    assert await sdk.runs.wait(thread, "steps", input=EMPTY | {"done": ["b"]}) == {
        "done": ["a", "first", "b", "first", "second"]
    }


async def test_a_remote_graph_is_a_graph(sdk: LangGraphClient, door: Door) -> None:
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        remote = RemoteGraph("steps", client=sdk, sync_client=sync)
        assert await remote.ainvoke({"done": []}) == {"done": ["first", "second"]}
        assert [chunk async for chunk in remote.astream({"done": []}, stream_mode="custom")] == [
            {"at": "first"},
            {"at": "second"},
        ]
        assert remote.invoke({"done": []}) == {"done": ["first", "second"]}


async def test_a_stream_goes_on_at_another_gateway_although_its_worker_was_killed(
    sdk: LangGraphClient, other: LangGraphClient, door: Door
) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "steps", input=EMPTY | {"hold": True}, stream_mode=["custom", "updates"])
    seen = []
    stream: Any = sdk.runs.join_stream(thread, run["run_id"])
    async with aclosing(stream):
        async for part in stream:
            seen.append(part)
            if part.data == {"at": "second"}:
                break
    for name in WORKERS:
        door.tiers.kill(name)
        start_worker(door.tiers, name)
    (door.folder / "go").touch()
    rest = [part async for part in other.runs.join_stream(thread, run["run_id"], last_event_id=seen[-1].id)]
    assert rest[-1].event == "end"
    assert data_of([*seen, *rest], "updates") == [
        {"first": {"done": ["first"]}},
        {"second": {"done": ["second"]}},
    ]
    assert all(said["attempt"] > 1 for said in data_of(rest, "metadata"))
    assert data_of(rest, "metadata")
    assert (await sdk.runs.join(thread, run["run_id"]))["done"] == ["first", "second"]


async def test_what_cannot_be_had_is_refused_with_the_cure(sdk: LangGraphClient) -> None:
    with pytest.raises(UnprocessableEntityError, match="webhook: this gateway calls nobody; set its WEBHOOK_SECRET"):
        await sdk.runs.create(None, "steps", input={}, webhook="http://127.0.0.1/x")
    with pytest.raises(NotFoundError, match="there is no thread"):
        await sdk.runs.create("nothing", "steps", input={})
    with pytest.raises(UnprocessableEntityError, match="inputs: there is no such field; leave it out") as refused:
        await sdk.http.post("/runs/wait", json={"assistant_id": "steps", "inputs": {}})
    assert refused.value.response.headers["Content-Type"] == "application/problem+json"


async def test_what_nobody_can_keep_is_refused_wherever_it_comes_in(sdk: LangGraphClient, door: Door) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = (await sdk.runs.create(thread, "steps", input=EMPTY))["run_id"]
    mine = (await sdk.assistants.create("steps"))["assistant_id"]
    cron: Any = await sdk.crons.create("steps", schedule="0 0 1 1 *", input=EMPTY)
    places = {  # where X stands for what is sent
        "POST /threads": '{"metadata": {"a": X}}',
        f"PATCH /threads/{thread}": '{"metadata": X}',
        "POST /threads/search": '{"ids": [X]}',
        f"POST /threads/{thread}/runs": '{"assistant_id": "steps", "context": {"a": X}}',
        "POST /runs": '{"assistant_id": "steps", "metadata": {"a": X}}',
        "POST /runs/batch": '[{"assistant_id": "steps", "thread_id": X}]',
        "POST /assistants": '{"graph_id": "steps", "config": X}',
        f"PATCH /assistants/{mine}": '{"config": {"configurable": {"a": X}}}',
        "POST /runs/crons": '{"assistant_id": "steps", "schedule": "* * * * *", "input": {"a": X}}',
        f"PATCH /runs/crons/{cron['cron_id']}": '{"metadata": {"a": X}}',
        "PUT /store/items": '{"namespace": ["a"], "key": "k", "value": {"a": X}}',
        "PUT /schedules/odd": '{"task": {"task_type": "steps"}, "cron": "* * * * *", "metadata": {"a": X}}',
    }
    odd = ('"\\ud800"', '{"\\ud800": 1}', f"{2**64}", "9" * 5000, "NaN", "[" * 300 + "]" * 300)
    config = '{"configurable": 5}'
    shapes = {
        "POST /runs": f'{{"assistant_id": "steps", "config": {config}}}',
        "POST /assistants": f'{{"graph_id": "steps", "config": {config}}}',
        f"PATCH /runs/crons/{cron['cron_id']}": f'{{"config": {config}}}',
        "PUT /store/items": '{"namespace": ["a"], "key": "k", "value": {}, "ttl": 1e308}',
    }
    asked = [(place, body.replace("X", value)) for place, body in places.items() for value in odd]
    async with httpx.AsyncClient(base_url=door.urls[0], headers={"Content-Type": "application/json"}) as client:
        for place, body in [*asked, *shapes.items()]:
            method, path = place.split()
            answer = await client.request(method, path, content=body)
            assert answer.status_code in (400, 422), (place, body[:80], answer.text)
        for last in f"{2**64}-0/0", f"{'9' * 5000}-0/0", "²-0/0":
            for path, last_id in ((f"/{thread}/runs/{run}/stream", last), (f"/{thread}/stream", f"{run}/{last}")):
                headers = [(b"Last-Event-ID", last_id.encode())]
                answer = await client.get(f"/threads{path}", headers=headers)
                assert answer.status_code == 422, (path, last_id[:80], answer.text)
    await sdk.assistants.delete(mine)
    await sdk.crons.delete(cron["cron_id"])


def test_who_has_no_key_is_not_let_in(door: Door) -> None:
    url = f"{door.urls[1]}/assistants/search"
    assert httpx.post(url, json={}).status_code == 401
    assert httpx.post(url, json={}, headers={"X-Api-Key": "wrong"}).status_code == 401
    assert httpx.post(url, json={}, headers={"Authorization": "Bearer see"}).status_code == 200
    refused = httpx.post(f"{door.urls[1]}/runs/wait", json={"assistant_id": "steps"}, headers={"X-Api-Key": "see"})
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "the role viewer may not change threads; use the key or token of one of operator, admin",
    )
    assert httpx.get(f"{door.urls[0]}/info", headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert httpx.get(f"{door.urls[0]}/info", headers={"Host": "elsewhere.example"}).status_code == 403
    large = httpx.post(f"{door.urls[0]}/runs/wait", content=b"x" * (4 * 1024 * 1024 + 1))
    assert large.status_code == 413


async def test_threads_are_found_changed_copied_and_deleted_at_any_gateway(
    sdk: LangGraphClient, other: LangGraphClient
) -> None:
    mine: Any = {"project": "threads of this test"}
    first, second = await sdk.threads.create(metadata=mine), await other.threads.create(metadata=mine)
    await sdk.runs.wait(first["thread_id"], "steps", input=EMPTY)

    assert (await other.threads.update(second["thread_id"], metadata={"kind": "second"}))["metadata"] == {
        **mine,
        "kind": "second",
    }
    both = {first["thread_id"], second["thread_id"]}
    assert {thread["thread_id"] for thread in await sdk.threads.search(metadata=mine)} == both
    assert await other.threads.count(metadata={"kind": "second"}) == 1
    assert await other.threads.count(metadata=mine, status="idle") == 2
    await sdk.threads.copy(first["thread_id"])
    [copied] = {thread["thread_id"] for thread in await sdk.threads.search(metadata=mine)} - both
    again: Any = await other.runs.wait(copied, "steps", input=EMPTY)
    assert again == {"done": ["first", "second", "first", "second"]}

    await sdk.threads.delete(first["thread_id"])
    with pytest.raises(NotFoundError):
        await other.threads.get(first["thread_id"])
    assert await sdk.threads.count(metadata=mine) == 2


async def test_what_many_change_of_a_thread_at_once_stays(sdk: LangGraphClient, other: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    runs = [sdk.runs.create(thread, "steps", input=EMPTY), other.runs.create(thread, "asks", input=EMPTY)]
    changes = [(sdk, other)[number % 2].threads.update(thread, metadata={f"{number}": number}) for number in range(20)]
    await asyncio.gather(*runs, *changes)
    assert {f"{number}" for number in range(20)} < {*((await sdk.threads.get(thread))["metadata"] or {})}


async def test_a_thread_lives_as_long_as_it_is_to(sdk: LangGraphClient, other: LangGraphClient) -> None:
    async def is_gone(thread: str) -> bool:
        try:
            await other.threads.get(thread)
        except NotFoundError:
            return True
        return False

    soon: Any = 0.01
    gone, pruned, kept = [
        (await sdk.threads.create(ttl=ttl))["thread_id"]
        for ttl in (soon, {"ttl": soon, "strategy": "keep_latest"}, {"ttl": 60, "strategy": "keep_latest"})
    ]
    for thread in (pruned, kept):
        await sdk.runs.wait(thread, "steps", input=EMPTY)
    assert "ttl" not in await sdk.threads.get(kept)
    told: Any = (await other.threads.get(kept, include=["ttl"]))["ttl"]  # type: ignore[typeddict-item]
    assert (told["ttl_minutes"], told["strategy"]) == (60, "keep_latest")
    used = datetime.fromisoformat(told["expires_at"]) - timedelta(minutes=60)
    assert datetime.now(UTC) - timedelta(minutes=1) < used < datetime.now(UTC)

    await until_async(lambda: is_gone(gone), "the thread is deleted")

    async def is_pruned() -> bool:
        return len(await sdk.threads.get_history(pruned)) == 1

    await until_async(is_pruned, "only its newest state is there")
    assert (await sdk.threads.get(pruned))["values"] == {"done": ["first", "second"]}
    assert len(await sdk.threads.get_history(kept)) > 1
    assert await sdk.http.get(f"/threads/{kept}?include=ttl") == {**await sdk.threads.get(kept), "ttl": told}

    await sdk.runs.wait(kept, "asks", input=EMPTY)  # what asks is in no line, and goes with its thread
    await sdk.threads.update(kept, metadata={}, ttl=soon)
    await until_async(lambda: is_gone(kept), "the thread is deleted")
    for wrong in ({"ttl": 0}, {"ttl": 5, "strategy": "archive"}):
        with pytest.raises(UnprocessableEntityError):
            await sdk.threads.create(ttl=wrong)


async def test_a_thread_that_asks_is_deleted_with_its_run(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], "asks", input=EMPTY)

    await sdk.threads.delete(thread["thread_id"])

    assert await sdk.threads.search(ids=[thread["thread_id"]]) == []
