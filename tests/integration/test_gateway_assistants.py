"""Assistants, the store and what is refused, by the SDK of LangGraph."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.gateway_door import EMPTY, Door


async def test_a_graph_is_drawn_and_described(sdk: LangGraphClient, door: Door) -> None:
    flat: Any = await sdk.assistants.get_graph("nests")
    deep: Any = await sdk.assistants.get_graph("nests", xray=True)
    assert {node["id"] for node in flat["nodes"]} == {"__start__", "inner", "second", "__end__"}
    assert {"inner:first", "inner:approve"} <= {node["id"] for node in deep["nodes"]}
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        assert sync.assistants.get_graph("nests", xray=1) == deep
        schemas: Any = sync.assistants.get_schemas("steps")
    assert schemas["graph_id"] == "steps"
    for name in "input_schema", "output_schema", "state_schema":
        assert {"done", "hold"} <= schemas[name]["properties"].keys()
    assert schemas["context_schema"]["properties"].keys() == {"greeting"}
    inner: Any = await sdk.assistants.get_subgraphs("nests", recurse=True)
    assert inner == await sdk.assistants.get_subgraphs("nests", namespace="inner")
    assert "done" in inner["inner"]["state_schema"]["properties"]
    assert await sdk.assistants.get_subgraphs("steps") == {}


async def test_an_assistant_gives_its_graph_a_context_and_has_versions(
    sdk: LangGraphClient, other: LangGraphClient
) -> None:
    created = await sdk.assistants.create(
        "greets", context={"greeting": "hello"}, metadata={"team": "blue"}, name="greeter", assistant_id="my-greeter"
    )
    assert (created["assistant_id"], created["version"]) == ("my-greeter", 1)
    with pytest.raises(ConflictError, match="there is an assistant 'my-greeter' already"):
        await sdk.assistants.create("steps", assistant_id="my-greeter")
    assert await sdk.assistants.create("steps", assistant_id="my-greeter", if_exists="do_nothing") == created
    assert await sdk.runs.wait(None, "my-greeter", input=EMPTY) == {"done": ["hello"]}
    over: Any = await sdk.runs.wait(None, "my-greeter", input=EMPTY, context={"greeting": "hi"})
    assert over == {"done": ["hi"]}

    changed = await other.assistants.update("my-greeter", context={"greeting": "good day"}, metadata={"x": 1})
    assert (changed["version"], changed["metadata"]) == (2, {"team": "blue", "x": 1})
    assert await sdk.runs.wait(None, "my-greeter", input=EMPTY) == {"done": ["good day"]}
    assert [one["version"] for one in await sdk.assistants.get_versions("my-greeter")] == [2, 1]
    assert [one["version"] for one in await sdk.assistants.get_versions("my-greeter", metadata={"x": 1})] == [2]
    assert await sdk.assistants.set_latest("my-greeter", 1) == created
    assert await other.assistants.get("my-greeter") == created
    assert (await other.assistants.update("my-greeter", name="again"))["version"] == 3

    assert await sdk.assistants.count(metadata={"team": "blue"}) == 1
    found: Any = await sdk.assistants.search(graph_id="greets", sort_by="name", sort_order="desc", select=["name"])
    assert found == [{"name": "greets"}, {"name": "again"}]
    first: Any = await sdk.assistants.search(limit=2, response_format="object")
    rest = await sdk.assistants.search(offset=int(first["next"]), limit=100)
    assert len(first["assistants"]) + len(rest) == await sdk.assistants.count()

    await sdk.runs.wait("a thread of the greeter", "my-greeter", input=EMPTY, if_not_exists="create")
    await sdk.assistants.delete("my-greeter", delete_threads=True)
    for gone in (sdk.assistants.get("my-greeter"), sdk.threads.get("a thread of the greeter")):
        with pytest.raises(NotFoundError):
            await gone
    with pytest.raises(UnprocessableEntityError, match="is the graph 'steps' itself"):
        await sdk.assistants.update("steps", name="mine")


async def test_what_is_put_in_the_store_is_what_graphs_find_there(sdk: LangGraphClient, other: LangGraphClient) -> None:
    await sdk.store.put_item(["notes", "ada"], key="a", value={"text": "likes tea", "kind": "x"}, ttl=60)
    await sdk.store.put_item(["notes", "ada"], key="b", value={"text": "likes rain"})
    await other.store.put_item(["notes", "eve", "old"], key="a", value={"kind": "x"}, index=False)

    item: Any = await other.store.get_item(["notes", "ada"], key="a", refresh_ttl=True)
    assert (item["namespace"], item["key"], item["value"]["text"]) == (["notes", "ada"], "a", "likes tea")
    assert item["created_at"] <= item["updated_at"]
    found = await sdk.store.search_items(["notes"], filter={"kind": "x"})
    assert [(one["namespace"], one["key"]) for one in found["items"]] == [
        (["notes", "ada"], "a"),
        (["notes", "eve", "old"], "a"),
    ]
    assert len((await sdk.store.search_items(["notes"], limit=1, offset=2, refresh_ttl=False))["items"]) == 1
    assert (await sdk.store.list_namespaces(prefix=["notes"]))["namespaces"] == [
        ["notes", "ada"],
        ["notes", "eve", "old"],
    ]
    assert (await sdk.store.list_namespaces(suffix=["old"], max_depth=2))["namespaces"] == [["notes", "eve"]]
    assert (await sdk.runs.wait(None, "recalls", input=EMPTY)) == {"done": ["likes rain", "likes tea"]}

    await sdk.store.delete_item(["notes", "ada"], key="a")
    assert await sdk.store.get_item(["notes", "ada"], key="a") is None
    with pytest.raises(UnprocessableEntityError, match=r"query: no worker has an index, .*: put `store\.index` into"):
        await sdk.store.search_items(["notes"], query="tea")
    with pytest.raises(UnprocessableEntityError, match="index: no worker has an index"):
        await sdk.store.put_item(["notes"], key="a", value={}, index=["text"])


async def test_threads_are_made_of_supersteps_searched_by_values_and_pruned(sdk: LangGraphClient) -> None:
    steps: Any = [
        {"updates": [{"values": {"done": ["a"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"done": ["b"]}, "as_node": "first"}]},
    ]
    made: Any = await sdk.threads.create(supersteps=steps, graph_id="steps", metadata={"made": "by hand"})
    thread = made["thread_id"]
    assert made["values"] == {"done": ["a", "b"]}
    assert (await sdk.threads.get_state(thread))["next"] == ["second"]
    assert await sdk.runs.wait(thread, "steps", input=None) == {"done": ["a", "b", "second"]}

    found: Any = await sdk.threads.search(
        values={"done": ["a", "b", "second"]},
        select=["thread_id"],
        extract={"last": "values.done[-1]", "no": "values.x"},
    )
    assert found == [{"thread_id": thread, "extracted": {"last": "second", "no": None}}]
    assert await sdk.threads.count(values={"done": ["a"]}) == 0
    by_status: Any = await sdk.threads.search(metadata={"made": "by hand"}, sort_by="status", sort_order="asc")
    assert [one["status"] for one in by_status] == ["idle"]
    await sdk.threads.update(thread, metadata={"x": 1}, return_minimal=True)
    assert (await sdk.threads.get(thread))["metadata"] == {
        "made": "by hand",
        "graph_id": "steps",
        "x": 1,
        "assistant_id": by_status[0]["metadata"]["assistant_id"],
    }

    assert len(await sdk.threads.get_history(thread)) == 3
    assert await sdk.threads.prune([thread, "nothing"], strategy="keep_latest") == {"pruned_count": 1}
    assert len(await sdk.threads.get_history(thread)) == 1
    assert await sdk.threads.prune([thread]) == {"pruned_count": 1}
    with pytest.raises(NotFoundError):
        await sdk.threads.get(thread)
    with pytest.raises(UnprocessableEntityError, match="has no graph that could take an update"):
        await sdk.threads.create(supersteps=steps, thread_id="no graph")
    with pytest.raises(NotFoundError):
        await sdk.threads.get("no graph")


async def test_a_graph_with_a_process_of_its_own_is_an_assistant(sdk: LangGraphClient) -> None:
    assert await sdk.runs.wait(None, "alone", input=EMPTY) == {"done": ["first"]}


async def test_what_is_not_here_says_so(sdk: LangGraphClient) -> None:
    with pytest.raises(UnprocessableEntityError, match="is not supported; let programs call the routes of runs"):
        await sdk.http.post("/mcp", json={})
    with pytest.raises(UnprocessableEntityError, match="stream_mode"):
        await sdk.runs.create(None, "steps", input=EMPTY, stream_mode="lifecycle")
    with pytest.raises(UnprocessableEntityError, match="feedback_keys is not supported"):
        _ = [part async for part in sdk.runs.stream(None, "steps", input=EMPTY, feedback_keys=["good"])]
