"""Runs, by the SDK of LangGraph: many at once, from a checkpoint, by a command, cancelled, forgotten, in a line."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import httpx
import orjson
import pytest
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from redis import Redis

from core.config.variables import secret_text
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import CoordinatorKeys
from tests.gateway_door import EMPTY, Door, data_of
from tests.waiting import until_async


async def new_thread(sdk: LangGraphClient, **fields: Any) -> str:
    thread_id: str = (await sdk.threads.create(**fields))["thread_id"]
    return thread_id


async def statuses(sdk: LangGraphClient, thread: str) -> list[str]:
    return [run["status"] for run in await sdk.runs.list(thread)]


async def held(sdk: LangGraphClient, thread: str, **fields: Any) -> str:
    """A run that goes on until it is cancelled."""
    run = await sdk.runs.create(thread, "steps", input=EMPTY | {"hold": True}, **fields)

    async def is_held() -> bool:
        state: Any = await sdk.threads.get_state(thread)
        return bool(state["next"] == ["second"])

    await until_async(is_held, "the run waits in its second node")
    run_id: str = run["run_id"]
    return run_id


async def test_a_batch_of_runs_begins_and_each_ends(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    one: Any = {"assistant_id": "steps", "input": EMPTY}
    batch: list[Any] = [one, {**one, "thread_id": thread, "assistantId": "steps"}]  # as JavaScript's client names it

    alone, threaded = await sdk.runs.create_batch(batch)

    assert (await sdk.runs.join(thread, threaded["run_id"]))["done"] == ["first", "second"]
    assert (await sdk.runs.join(alone["thread_id"], alone["run_id"]))["done"] == ["first", "second"]
    batch = [one, {**one, "assistant_id": "nobody"}]
    with pytest.raises(NotFoundError, match="run 1 of the batch: there is no assistant 'nobody'"):
        await sdk.runs.create_batch(batch)


async def test_a_run_goes_on_from_a_checkpoint(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "steps", input=EMPTY)
    history: Any = await sdk.threads.get_history(thread)

    again = await sdk.runs.wait(thread, "steps", input=None, checkpoint_id=history[1]["checkpoint"]["checkpoint_id"])
    other = await sdk.runs.wait(thread, "steps", input=EMPTY | {"done": ["x"]}, checkpoint=history[1]["checkpoint"])

    assert again == {"done": ["first", "second"]}
    assert other == {"done": ["first", "x", "first", "second"]}
    with pytest.raises(Exception, match="has no checkpoint"):
        await sdk.runs.wait(thread, "steps", input=EMPTY, checkpoint_id="1ef00000-0000-6000-8000-000000000000")


async def test_a_question_of_a_run_from_a_checkpoint_is_asked(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "asks", input=EMPTY)
    await sdk.runs.wait(thread, "asks", command={"resume": "yes"})
    [before] = [one for one in await sdk.threads.get_history(thread) if one["next"] == ["first"]]

    asked: Any = await sdk.runs.wait(thread, "asks", input=None, checkpoint=before["checkpoint"])
    assert asked["__interrupt__"][0]["value"] == {"question": "really?"}
    assert await sdk.runs.wait(thread, "asks", command={"resume": "no"}) == {"done": ["first", "no", "second"]}


async def test_a_command_updates_and_leads_elsewhere(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "steps", input=EMPTY)
    done = await sdk.runs.wait(thread, "steps", command={"update": {"done": ["x"]}, "goto": "second"})
    assert done == {"done": ["first", "second", "x", "second"]}
    sent = await sdk.runs.wait(thread, "steps", command={"goto": {"node": "second", "input": {"done": []}}})
    assert sent == {"done": ["first", "second", "x", "second", "second"]}
    with pytest.raises(UnprocessableEntityError, match="a command and a checkpoint are about a thread"):
        await sdk.runs.create(None, "steps", command={"goto": "second"})


async def test_a_state_that_asks_is_edited_and_resumed(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "asks", input=EMPTY)

    await sdk.threads.update_state(thread, {"done": ["edited"]})

    assert (await sdk.threads.get_state(thread))["next"] == ["approve"]
    assert (await sdk.threads.get(thread))["status"] == "interrupted"
    told = await sdk.runs.wait(thread, "asks", command={"resume": "yes"})
    assert told == {"done": ["first", "edited", "yes", "second"]}
    with pytest.raises(ConflictError, match="asks nothing"):
        await sdk.runs.create(thread, "asks", command={"resume": "yes"})


async def test_a_run_behind_one_that_comes_to_ask_begins(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    first = await sdk.runs.create(thread, "asks", input=EMPTY)
    second: Any = await sdk.runs.wait(thread, "steps", input=EMPTY | {"done": ["b"]}, multitask_strategy="enqueue")
    assert second["done"][-3:] == ["b", "first", "second"]
    assert (await sdk.runs.get(thread, first["run_id"]))["status"] == "interrupted"
    assert (await sdk.threads.get(thread))["status"] == "idle"


async def test_a_busy_thread_rejects_interrupts_and_rolls_back(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await held(sdk, thread)
    with pytest.raises(ConflictError, match="is busy with"):
        await sdk.runs.create(thread, "steps", input=EMPTY, multitask_strategy="reject")
    with pytest.raises(ConflictError, match="has a run"):
        await sdk.threads.delete(thread)
    freely = EMPTY | {"hold": False}
    after: Any = await sdk.runs.wait(thread, "steps", input=freely, multitask_strategy="interrupt")
    assert after["done"] == ["first", "first", "second"]
    assert await statuses(sdk, thread) == ["success", "interrupted"]
    await held(sdk, thread)
    undone: Any = await sdk.runs.wait(thread, "steps", input=freely, multitask_strategy="rollback")
    assert undone["done"] == ["first", "first", "second", "first", "second"]


async def test_a_thread_in_which_another_program_runs_is_not_deleted(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "steps", input=EMPTY)
    task: Any = {"task_type": "steps", "payload": EMPTY | {"hold": True}, "run": {"thread_id": thread}}
    [other] = (await sdk.http.post("/tasks/submit", json=task) or {})["task_ids"]

    with pytest.raises(ConflictError, match="is busy with"):
        await sdk.threads.delete(thread)

    assert (await sdk.threads.get(thread))["values"]
    await sdk.http.post(f"/tasks/{other}/cancel", json={})


async def test_the_runs_of_a_thread_that_is_not_there_are_not_listed(sdk: LangGraphClient) -> None:
    with pytest.raises(NotFoundError, match="there is no thread 'nothing'"):
        await sdk.runs.list("nothing")
    assert await sdk.runs.list(await new_thread(sdk)) == []
    alone = await sdk.runs.create(None, "steps", input=EMPTY)
    assert [run["run_id"] for run in await sdk.runs.list(alone["thread_id"])] == [alone["run_id"]]


async def test_runs_are_cancelled_rolled_back_and_forgotten(sdk: LangGraphClient, door: Door) -> None:
    thread = await new_thread(sdk)
    run = await held(sdk, thread)
    with pytest.raises(ConflictError, match="goes on"):
        await sdk.runs.delete(thread, run)
    await sdk.runs.cancel(thread, run, wait=True)
    assert await statuses(sdk, thread) == ["interrupted"]
    assert (await sdk.threads.get_state(thread))["values"] == {"done": ["first"], "hold": True}
    await sdk.runs.delete(thread, run)
    assert await sdk.runs.list(thread) == []

    other = await new_thread(sdk)
    await sdk.runs.cancel(other, await held(sdk, other), action="rollback")
    assert await sdk.runs.list(other) == []
    assert (await sdk.threads.get_state(other))["values"] == {}

    busy = {thread: await held(sdk, thread) for thread in [await new_thread(sdk), await new_thread(sdk)]}
    assert {one["thread_id"] for one in await sdk.threads.search(status="busy")} == {*busy}
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        sync.runs.cancel_many(thread_id=next(iter(busy)), run_ids=[next(iter(busy.values()))])
        sync.runs.cancel_many(status="all")

    async def is_idle() -> bool:
        return await sdk.threads.count(status="busy") == 0

    await until_async(is_idle, "all runs have ended")


async def test_whoever_goes_away_from_a_wait_has_its_run_cancelled_if_so_asked(
    sdk: LangGraphClient, door: Door
) -> None:
    thread = await new_thread(sdk)
    body = {"assistant_id": "steps", "input": EMPTY | {"hold": True}, "on_disconnect": "cancel"}
    async with httpx.AsyncClient(base_url=door.urls[0]) as http:
        waiting = asyncio.create_task(http.post(f"/threads/{thread}/runs/wait", json=body, timeout=60))

        async def is_held() -> bool:
            return (await sdk.threads.get_state(thread))["next"] == ["second"]

        await until_async(is_held, "the run waits in its second node")
        waiting.cancel()
        await asyncio.wait({waiting})

    async def is_cancelled() -> bool:
        return await statuses(sdk, thread) == ["interrupted"]

    await until_async(is_cancelled, "the run is cancelled")


@pytest.mark.parametrize(("graph", "status"), [("steps", "success"), ("fails", "error")])
async def test_a_run_whose_record_has_expired_still_tells_how_it_has_ended(
    sdk: LangGraphClient, door: Door, graph: str, status: str
) -> None:
    thread = await new_thread(sdk)
    run_id = (await sdk.runs.create(thread, graph, input=EMPTY))["run_id"]

    async def has_ended() -> bool:
        task: Any = await sdk.http.get(f"/tasks/{run_id}")
        return task["status"] in ("completed", "failed")

    await until_async(has_ended, "the run has ended")
    records = CoordinatorKeys("coordinator-1").tasks
    runs = GatewayKeys("coordinator-1").runs(thread)
    at = door.tiers.redis
    with Redis.from_url(secret_text(at.url) or "", password=secret_text(at.password)) as redis:
        assert redis.hdel(records, run_id)
        run = orjson.loads(redis.hget(runs, run_id) or b"")
        redis.hset(runs, run_id, orjson.dumps({**run, "created_at": "2026-01-01T00:00:00Z"}).decode())

    assert (await sdk.runs.get(thread, run_id))["status"] == status
    assert await statuses(sdk, thread) == [status]
    told = [part.event async for part in sdk.runs.join_stream(thread, run_id)]
    assert (told[0], told[-1], "error" in told) == ("metadata", "end", status == "error")


async def test_a_stream_that_is_joined_begins_where_its_client_says_or_says_that_this_is_nowhere(
    sdk: LangGraphClient, door: Door
) -> None:
    thread = await new_thread(sdk)
    run_id = (await sdk.runs.create(thread, "steps", input=EMPTY))["run_id"]
    whole = [part async for part in sdk.runs.join_stream(thread, run_id)]
    for beginning in ("-1", "-", "0"):
        assert [part async for part in sdk.runs.join_stream(thread, run_id, last_event_id=beginning)] == whole
    async with httpx.AsyncClient(base_url=door.urls[0]) as http:
        for path, last in ((f"/runs/{run_id}", "x"), ("", f"{run_id}/x")):
            refused = await http.get(f"/threads/{thread}{path}/stream", headers={"Last-Event-ID": last})
            assert (refused.status_code, "there is no event 'x'" in refused.text) == (422, True)


async def test_a_chat_front_end_resumes_with_the_checkpoint_that_it_shows(sdk: LangGraphClient) -> None:
    for graph in ("asks", "nests"):
        thread = await new_thread(sdk)
        await sdk.runs.wait(thread, graph, input=EMPTY)
        shown: Any = dict((await sdk.threads.get_state(thread))["checkpoint"])
        del shown["thread_id"]
        told = await sdk.runs.wait(thread, graph, command={"resume": "yes"}, checkpoint=shown)
        assert told == {"done": ["first", "yes", "second"]}
        assert await statuses(sdk, thread) == ["success", "interrupted"]


async def test_a_run_that_was_answered_is_not_cancelled_with_the_one_that_goes_on(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    await sdk.runs.wait(thread, "asks", input=EMPTY | {"hold": True})
    [asked] = await sdk.runs.list(thread)
    run = await sdk.runs.create(thread, "asks", command={"resume": "yes"})

    async def is_held() -> bool:
        return (await sdk.threads.get_state(thread))["next"] == ["second"]

    await until_async(is_held, "the run waits in its last node")
    await sdk.runs.cancel(thread, asked["run_id"], wait=True)
    with pytest.raises(ConflictError, match="goes on as another one"):
        await sdk.runs.cancel(thread, asked["run_id"], action="rollback")
    assert await statuses(sdk, thread) == ["running", "interrupted"]
    await sdk.runs.cancel(thread, run["run_id"], wait=True)


async def test_of_answers_at_the_same_time_one_counts(sdk: LangGraphClient, other: LangGraphClient) -> None:
    for _ in range(3):
        thread = await new_thread(sdk)
        await sdk.runs.wait(thread, "asks", input=EMPTY)
        answers = [
            (sdk, other)[number % 2].runs.create(thread, "asks", command={"resume": f"{number}"}) for number in range(8)
        ]
        told = await asyncio.gather(*answers, return_exceptions=True)
        [run] = [one for one in told if not isinstance(one, BaseException)]
        assert all(isinstance(one, ConflictError) for one in told if one is not run)
        values: Any = await sdk.runs.join(thread, run["run_id"])
        assert values == {"done": ["first", f"{told.index(run)}", "second"]}
        assert await statuses(sdk, thread) == ["success", "interrupted"]


async def test_what_is_null_is_left_out(sdk: LangGraphClient) -> None:
    thread: Any = await sdk.http.post("/threads", json={"thread_id": None, "metadata": None, "supersteps": None})
    body = {"assistant_id": "steps", "input": EMPTY, "config": None, "metadata": None, "stream_mode": None}
    done = await sdk.http.post(f"/threads/{thread['thread_id']}/runs/wait", json=body)
    assert done == {"done": ["first", "second"]}
    history: Any = {"limit": None, "checkpoint": None, "before": None}
    assert await sdk.http.post(f"/threads/{thread['thread_id']}/history", json=history)
    with pytest.raises(UnprocessableEntityError, match="assistant_id: "):
        await sdk.http.post("/runs/wait", json={"assistant_id": None})


async def test_a_thread_is_busy_while_any_of_its_runs_goes_on(sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    run = await held(sdk, thread)
    behind = await sdk.runs.create(thread, "steps", input=EMPTY, multitask_strategy="enqueue")
    await sdk.runs.cancel(thread, behind["run_id"], wait=True)
    assert (await sdk.threads.get(thread))["status"] == "busy"
    await sdk.runs.cancel(thread, run, wait=True)
    assert (await sdk.threads.get(thread))["status"] == "interrupted"


async def test_a_run_without_a_thread_may_keep_its_own(sdk: LangGraphClient) -> None:
    made: list[Any] = []
    done = await sdk.runs.wait(None, "steps", input=EMPTY, on_completion="keep", on_run_created=made.append)
    thread = made[0]["thread_id"]
    assert (await sdk.threads.get_state(thread))["values"] == done
    assert await sdk.threads.count(metadata={"graph_id": "steps"}) >= 1
    created = await sdk.runs.wait("a thread of my own", "steps", input=EMPTY, if_not_exists="create")
    assert (await sdk.threads.get("a thread of my own"))["values"] == created
    assert await sdk.runs.wait(None, "fails", input={}, raise_error=False) == {
        "__error__": {"error": "ValueError", "message": "no such thing"}
    }


async def test_the_stream_of_a_thread_tells_all_its_runs_and_goes_on_behind_an_event(
    sdk: LangGraphClient, other: LangGraphClient
) -> None:
    thread = await new_thread(sdk)

    async def told(of: LangGraphClient, runs: int, **given: Any) -> list[Any]:
        parts: list[Any] = []
        stream: Any = await of.threads.join_stream(thread, **given)
        async with aclosing(stream):
            async for part in stream:
                parts.append(part)
                if sum(said.get("status") == "run_done" for said in data_of(parts, "metadata")) == runs:
                    return parts
        return parts

    live = asyncio.create_task(told(sdk, 2))
    await sdk.runs.wait(thread, "asks", input=EMPTY)
    await sdk.runs.wait(thread, "asks", command={"resume": "yes"})
    parts = await asyncio.wait_for(live, 30)
    assert [part["done"] for part in data_of(parts, "values") if "__interrupt__" not in part][-1] == [
        "first",
        "yes",
        "second",
    ]
    replayed = await asyncio.wait_for(told(other, 2, last_event_id="-"), 30)
    assert [(part.event, part.data) for part in replayed] == [(part.event, part.data) for part in parts]
    [*_, last] = [place for place, part in enumerate(parts) if part.id and "done" not in part.id][:2]
    rest = await asyncio.wait_for(told(other, 2, last_event_id=parts[last].id), 30)
    assert [part.data for part in rest if part.event != "metadata"] == [
        part.data for part in parts[last + 1 :] if part.event != "metadata"
    ]
    lifecycle = await asyncio.wait_for(told(other, 2, last_event_id="-", stream_mode="lifecycle"), 30)
    assert [part.event for part in lifecycle] == ["metadata"] * 4


async def test_a_remote_graph_has_states_and_is_a_node(sdk: LangGraphClient, door: Door) -> None:
    with get_sync_client(url=door.urls[0], api_key=None) as sync:
        remote = RemoteGraph("asks", client=sdk, sync_client=sync)
        config: Any = {"configurable": {"thread_id": await new_thread(sdk)}}
        assert "__interrupt__" in await remote.ainvoke({"done": []}, config)
        state = await remote.aget_state(config, subgraphs=True)
        assert (state.values, state.next) == ({"done": ["first"]}, ("approve",))
        assert remote.get_state(config).tasks[0].interrupts[0].value == {"question": "really?"}
        assert (
            len([one async for one in remote.aget_state_history(config)])
            == len([*remote.get_state_history(config)])
            > 2
        )
        await remote.aupdate_state(config, {"done": ["mine"]}, as_node="approve")
        assert await remote.ainvoke(None, config) == {"done": ["first", "mine", "second"]}
        drawn = await remote.aget_graph(xray=True)
        assert {node.name for node in drawn.nodes.values()} >= {"first", "approve", "second"}
        config = {"configurable": {"thread_id": await new_thread(sdk)}}
        nested = RemoteGraph("nests", client=sdk, sync_client=sync)
        chunks: list[Any] = [
            chunk
            async for chunk in nested.astream(
                {"done": []},
                {"configurable": {"thread_id": await new_thread(sdk)}},
                subgraphs=True,
                stream_mode="updates",
            )
        ]
        assert chunks[0][1] == {"first": {"done": ["first"]}}
        assert chunks[0][0][0].startswith("inner:")

        kind: Any = dict
        outer: Any = StateGraph(kind).add_node("steps", RemoteGraph("steps", client=sdk, sync_client=sync))
        graph = outer.add_edge(START, "steps").compile()
        assert await graph.ainvoke({"done": ["x"]}) == {"done": ["x", "first", "second"]}


def test_a_page_of_this_machine_may_use_it_and_read_where_a_run_is(door: Door) -> None:
    origin = {"Origin": "http://localhost:3000"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
    preflight = httpx.options(f"{door.urls[0]}/runs/wait", headers=origin | asked)
    told = httpx.post(f"{door.urls[0]}/runs/wait", json={"assistant_id": "steps", "input": EMPTY}, headers=origin)
    assert (
        preflight.headers["Access-Control-Allow-Origin"]
        == told.headers["Access-Control-Allow-Origin"]
        == origin["Origin"]
    )
    assert "x-api-key" in preflight.headers["Access-Control-Allow-Headers"]
    assert told.headers["Content-Location"].startswith("/threads/")
    assert "Content-Location" in told.headers["Access-Control-Expose-Headers"]
    foreign = httpx.options(f"{door.urls[1]}/runs/wait", headers=asked | {"Origin": "https://elsewhere.example"})
    assert "Access-Control-Allow-Origin" not in foreign.headers


async def test_a_question_that_somebody_else_wrote_to_redis_is_not_told_and_ends_nothing(
    sdk: LangGraphClient, door: Door
) -> None:
    thread = await new_thread(sdk)
    run_id = await held(sdk, thread)
    log = door.folder / f"{door.urls[0].rpartition('/')[2]}.log"
    keys = CoordinatorKeys("coordinator-1")
    at = door.tiers.redis
    waits = asyncio.create_task(sdk.runs.join(thread, run_id))
    with Redis.from_url(secret_text(at.url) or "", password=secret_text(at.password)) as redis:
        true = redis.hget(keys.tasks, run_id) or b""
        asked = {"id": "1", "asks": "your password?", "asked_at": "2026-01-01T00:00:00Z"}
        redis.hset(
            keys.tasks, run_id, orjson.dumps({**orjson.loads(true), "status": "waiting", "waits": [asked]}).decode()
        )
        redis.zadd(keys.questions, {run_id: 0})

        await until_async(lambda: "record_rejected" in log.read_text(), "the gateway has seen it")
        assert not waits.done()
        redis.hset(keys.tasks, run_id, true)
        redis.zrem(keys.questions, run_id)
    (door.folder / "go").touch()

    assert await waits == EMPTY | {"done": ["first", "second"], "hold": True}
    (door.folder / "go").unlink()
