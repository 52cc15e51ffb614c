"""States of threads, by the SDK of LangGraph: read, written, gone through, and gone on from."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.gateway_door import EMPTY, Door


async def new_thread(sdk: LangGraphClient, **fields: Any) -> str:
    thread_id: str = (await sdk.threads.create(**fields))["thread_id"]
    return thread_id


async def test_a_state_tells_values_and_what_is_next_and_what_is_asked(sdk: LangGraphClient, door: Door) -> None:
    thread = await new_thread(sdk)
    assert (await sdk.threads.get_state(thread))["values"] == {}
    await sdk.runs.wait(thread, "asks", input=EMPTY)

    state: Any = await sdk.threads.get_state(thread)

    assert (state["values"], state["next"]) == ({"done": ["first"]}, ["approve"])
    [task] = state["tasks"]
    assert task["name"] == "approve"
    assert [asked["value"] for asked in task["interrupts"]] == [{"question": "really?"}]
    assert state["interrupts"] == task["interrupts"]
    assert state["metadata"]["step"] == 1
    assert state["checkpoint"]["thread_id"] == thread
    got = await sdk.threads.get(thread)
    assert (got["values"], got["interrupts"]) == (state["values"], {task["id"]: task["interrupts"]})
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        assert sync.threads.get_state(thread, checkpoint=state["checkpoint"]) == state
        chosen: Any = sync.threads.get_state(thread, select=["next"])
        assert chosen == {"next": ["approve"]}
    chosen = await sdk.threads.get_state(
        thread, checkpoint_id=state["parent_checkpoint"]["checkpoint_id"], select=["values.done", "next"]
    )
    assert chosen == {"values": {"done": []}, "next": ["first"]}
    with pytest.raises(NotFoundError, match="has no checkpoint"):
        await sdk.threads.get_state(thread, checkpoint_id="1ef00000-0000-6000-8000-000000000000")


async def test_the_state_of_a_subgraph_is_told_if_asked_for(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    asked: Any = await sdk.runs.wait(thread, "nests", input=EMPTY)
    assert asked["__interrupt__"][0]["value"] == {"question": "really?"}

    flat: Any = await sdk.threads.get_state(thread)
    deep: Any = await sdk.threads.get_state(thread, subgraphs=True)

    where = flat["tasks"][0]["checkpoint"]
    inner = deep["tasks"][0]["state"]
    assert (inner["values"], inner["next"]) == ({"done": ["first"]}, ["approve"])
    assert inner["checkpoint"]["checkpoint_ns"] == where["checkpoint_ns"]
    assert inner["interrupts"] == flat["interrupts"] == deep["interrupts"] != []
    place: Any = {**where, "checkpoint_id": None}
    assert await sdk.threads.get_state(thread, checkpoint=place) == inner


async def test_a_history_goes_back_to_the_beginning(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "steps", input=EMPTY)

    history: Any = await sdk.threads.get_history(thread)

    assert [state["next"] for state in history] == [[], ["second"], ["first"], ["__start__"]]
    assert [state["values"].get("done") for state in history[:3]] == [["first", "second"], ["first"], []]
    assert [task["result"] for state in history for task in state["tasks"]][:2] == [
        {"done": ["second"]},
        {"done": ["first"]},
    ]
    newest, before, *_ = history
    assert newest["parent_checkpoint"] == before["checkpoint"]
    assert await sdk.threads.get_history(thread, limit=1) == [newest]
    assert await sdk.threads.get_history(thread, before=newest["checkpoint"]["checkpoint_id"]) == history[1:]
    assert await sdk.threads.get_history(thread, before=newest["checkpoint"], limit=1) == [before]
    assert await sdk.threads.get_history(thread, metadata={"step": 0}) == [history[2]]
    assert await sdk.threads.get_history(thread, checkpoint=before["checkpoint"]) == [before]


async def test_a_state_is_updated_as_if_a_node_had_written_it(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "steps", input=EMPTY)
    first: Any = (await sdk.threads.get_history(thread))[1]

    told = await sdk.threads.update_state(thread, {"done": ["mine"]}, as_node="second")
    assert (await sdk.threads.get_state(thread))["values"] == {"done": ["first", "second", "mine"]}
    assert told["checkpoint"] == (await sdk.threads.get_state(thread))["checkpoint"]

    await sdk.threads.update_state(thread, {"done": ["other"]}, checkpoint=first["checkpoint"])
    state = await sdk.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"done": ["first", "other"]}, ["second"])
    assert state["parent_checkpoint"] == first["checkpoint"]
    assert (await sdk.threads.get(thread))["status"] == "interrupted"
    assert await sdk.runs.wait(thread, "steps", input=None) == {"done": ["first", "other", "second"]}
    with pytest.raises(UnprocessableEntityError, match="no graph that could take an update"):
        await sdk.threads.update_state(await new_thread(sdk), {"done": []})


async def test_the_state_of_a_subgraph_is_updated_and_its_graph_goes_on_from_there(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "nests", input=EMPTY)
    where: Any = (await sdk.threads.get_state(thread))["tasks"][0]["checkpoint"]

    told = await sdk.threads.update_state(thread, {"done": ["mine"]}, as_node="approve", checkpoint=where)

    assert told["checkpoint"]["checkpoint_ns"] == where["checkpoint_ns"]
    inner: Any = (await sdk.threads.get_state(thread, subgraphs=True))["tasks"][0]["state"]
    assert (inner["values"], inner["next"]) == ({"done": ["first", "mine"]}, [])
    assert inner["checkpoint"] == told["checkpoint"]
    assert await sdk.runs.wait(thread, "nests", input=None) == {"done": ["first", "mine", "second"]}
    nowhere: Any = {**where, "checkpoint_ns": "inner:1"}
    with pytest.raises(UnprocessableEntityError, match="has no checkpoint 'inner:1'"):
        await sdk.threads.update_state(thread, {}, checkpoint=nowhere)
