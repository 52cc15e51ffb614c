"""`client.threads.stream` of LangGraph's SDK, by server-sent events and by WebSockets."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

import httpx
import msgspec
import orjson
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from redis import Redis
from websockets.asyncio.client import connect

from core.config.variables import secret_text
from core.gateway.protocol_streams import MAX_SUBSCRIPTIONS
from core.gateway.records import RunRecord
from core.redis_backend.gateway_keys import GatewayKeys
from tests.gateway_door import EMPTY, KEY, Door
from tests.waiting import until_async

HELLO: Any = {"messages": [{"role": "user", "content": "hello"}]}
#: How long anything may take that a stream has to tell, s.
WITHIN_S = 30


async def all_of(stream: Any) -> list[Any]:
    async with asyncio.timeout(WITHIN_S):
        return [one async for one in stream]


async def answered(door: Door, thread_id: str, method: str, key: str = KEY, **params: Any) -> httpx.Response:
    """What the second gateway says to a command."""
    async with httpx.AsyncClient(headers={"X-Api-Key": key}) as client:
        body = {"id": 7, "method": method, "params": params}
        return await client.post(f"{door.urls[1]}/threads/{thread_id}/commands", json=body)


def redis_of(door: Door) -> Redis:
    at = door.tiers.redis
    return Redis.from_url(f"{secret_text(at.url)}", password=secret_text(at.password))


def calls_of(redis: Redis, command: str) -> int:
    """How often the server was asked this."""
    said: Any = redis.info("commandstats")
    return int(said.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def listen(
    door: Door, thread_id: str, channels: list[str], told: list[Any], opened: asyncio.Event | None = None
) -> None:
    """Adds the events of a thread, as the second gateway tells them."""
    async with (
        httpx.AsyncClient(timeout=WITHIN_S, headers={"X-Api-Key": KEY}, base_url=door.urls[1]) as http,
        http.stream("POST", f"/threads/{thread_id}/stream/events", json={"channels": channels}) as response,
    ):
        if opened is not None:
            opened.set()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                told.append(orjson.loads(line.removeprefix("data: ")))


async def join(door: Door, thread_id: str, done: list[str]) -> None:
    """Adds that runs begin and end."""
    headers = {"X-Api-Key": KEY, "Last-Event-ID": "-"}
    async with (
        httpx.AsyncClient(timeout=WITHIN_S, headers=headers, base_url=door.urls[1]) as http,
        http.stream("GET", f"/threads/{thread_id}/stream?stream_mode=lifecycle") as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                done.append(orjson.loads(line.removeprefix("data: ")).get("status", "begins"))


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_each_turn_of_a_thread_tells_its_own_messages_and_values(
    sdk: LangGraphClient, transport: Literal["sse", "websocket"]
) -> None:
    thread_id = (await sdk.threads.create())["thread_id"]
    for turn in 1, 2:
        async with sdk.threads.stream(thread_id, assistant_id="chats", transport=transport) as stream:
            await stream.run.start(input=HELLO)
            [message] = await all_of(stream.messages)
            assert (await message.text, message.node) == ("hello there", "say")
        state: Any = await sdk.threads.get_state(thread_id)
        assert [one["type"] for one in state["values"]["messages"]] == ["human", "ai"] * turn


async def test_a_question_of_a_subgraph_is_answered_once(sdk: LangGraphClient, door: Door) -> None:
    async with asyncio.timeout(WITHIN_S), sdk.threads.stream(assistant_id="nests") as stream:
        await stream.run.start(input=EMPTY)
        begun = []
        async for event in stream.events:
            if event["method"] == "lifecycle":
                begun.append((event["params"]["data"]["graph_name"], event["params"]["data"]["event"]))
                if begun[-1] == ("nests", "interrupted"):
                    break
        assert begun == [
            ("nests", "running"), ("inner", "started"), ("inner", "interrupted"), ("nests", "interrupted"),
        ]  # fmt: skip
        await until_async(lambda: stream.interrupted, "it asks", WITHIN_S)
        [asked] = stream.interrupts
        assert asked["value"] == {"question": "really?"}
        unknown = await answered(door, stream.thread_id, "input.respond", interrupt_id="other", response="yes")
        assert unknown.json()["error"] == "no_such_interrupt"
        await stream.run.respond("yes")
        assert await stream.output == {"done": ["first", "yes", "second"]}
        again = await answered(
            door,
            stream.thread_id,
            "input.respond",
            responses=[{"interrupt_id": asked["interrupt_id"], "response": "no"}],
            strict_resume=True,
        )
        assert again.json()["error"] == "no_such_interrupt"


async def test_calls_of_tools_and_what_a_graph_writes_are_told(sdk: LangGraphClient) -> None:
    call = {"id": "call-1", "name": "double", "args": {"number": 4}, "type": "tool_call"}
    async with sdk.threads.stream(assistant_id="doubles") as stream:
        await stream.run.start(input={"messages": [{"role": "ai", "content": "", "tool_calls": [call]}]})
        [called] = await all_of(stream.tool_calls)
        assert (called.name, called.input, (await called.output)["content"]) == ("double", {"number": 4}, "8")
    async with sdk.threads.stream(assistant_id="steps") as stream:
        await stream.run.start(input=EMPTY)
        told = await all_of(stream.subscribe(["custom", "checkpoints", "updates", "tasks"]))
    assert [one["params"]["data"] for one in told if one["method"] == "custom"] == [
        {"payload": {"at": node}} for node in ("first", "second")
    ]
    updates = [one["params"]["data"] for one in told if one["method"] == "updates"]
    assert updates == [{"node": node, "values": {"done": [node]}} for node in ("first", "second")]
    assert [one["params"]["data"]["step"] for one in told if one["method"] == "checkpoints"] == [-1, 0, 1, 2]
    assert {one["params"]["data"]["name"] for one in told if one["method"] == "tasks"} == {"first", "second"}


async def test_a_run_that_fails_says_why(sdk: LangGraphClient, door: Door) -> None:
    async with asyncio.timeout(WITHIN_S), sdk.threads.stream(assistant_id="fails") as stream:
        await stream.run.start(input=EMPTY)
        with pytest.raises(RuntimeError, match="no such thing"):
            await stream.output
    with (
        get_sync_client(url=door.urls[0], api_key=None) as sync,
        sync.threads.stream(assistant_id="steps") as blocking,
    ):
        blocking.run.start(input=EMPTY)
        assert blocking.output == {"done": ["first", "second"]}


async def test_what_is_no_command_or_subscription_says_what_is(sdk: LangGraphClient, door: Door) -> None:
    thread_id = (await sdk.threads.create())["thread_id"]
    for method, params, code, said in (
        ("state.get", {}, "unknown_command", "send run.start or input.respond"),
        ("run.start", {}, "invalid_argument", "assistant_id: Field required"),
        ("run.start", {"assistant_id": "nobody"}, "invalid_argument", "there is no assistant 'nobody'"),
        ("run.start", {"assistant_id": "steps", "wings": 2}, "invalid_argument", "wings"),
        ("input.respond", {"responses": []}, "invalid_argument", "responses"),
        ("input.respond", {"interrupt_id": "x", "response": 1}, "invalid_argument", "has begun no run"),
    ):
        answer = (await answered(door, thread_id, method, **params)).json()
        assert (answer["type"], answer["id"], answer["error"]) == ("error", 7, code)
        assert said in answer["message"]
    url = f"{door.urls[0]}/threads/{thread_id}"
    async with httpx.AsyncClient() as client:
        for path, body, told in (
            ("commands", {"method": "run.start"}, "id: Field required"),
            ("stream/events", {"channels": []}, "channels"),
            ("stream/events", {"channels": ["news"]}, "channels.0"),
            ("stream/events", {"channels": ["values"], "depth": -1}, "depth"),
        ):
            refused = await client.post(f"{url}/{path}", json=body)
            assert refused.status_code == 422
            assert told in refused.json()["detail"]
        nowhere = await client.post(f"{door.urls[0]}/threads/nowhere/stream/events", json={"channels": ["values"]})
        assert nowhere.status_code == 404


async def test_who_may_only_look_begins_nothing(sdk: LangGraphClient, door: Door) -> None:
    thread_id = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread_id, "steps", input=EMPTY)
    refused = await answered(door, thread_id, "run.start", key="see", assistant_id="steps", input=EMPTY)
    assert refused.status_code == 403
    socket = f"{door.urls[1].replace('http', 'ws')}/threads/{thread_id}/stream/events"

    async with asyncio.timeout(WITHIN_S), connect(socket, additional_headers={"X-Api-Key": "see"}) as websocket:

        async def said(text: Any) -> Any:
            await websocket.send(text if isinstance(text, str) else orjson.dumps(text).decode())
            return orjson.loads(await websocket.recv())

        assert (await said("no JSON"))["error"] == "invalid_argument"
        start = {"id": 1, "method": "run.start", "params": {"assistant_id": "steps", "input": EMPTY}}
        assert (await said(start))["error"] == "permission_denied"
        wrong = {"id": 2, "method": "subscription.subscribe", "params": {"channels": ["news"]}}
        assert (await said(wrong))["error"] == "invalid_argument"
        nothing = {"id": 3, "method": "subscription.unsubscribe", "params": {"subscription_id": "x"}}
        assert (await said(nothing))["error"] == "no_such_subscription"
        listens = await said({**wrong, "id": 4, "params": {"channels": ["lifecycle"]}})
        told = [orjson.loads(await websocket.recv())["params"]["data"]["event"] for _ in range(2)]
        assert told == ["running", "completed"]
        assert (await said({**nothing, "id": 5, "params": listens["result"]}))["type"] == "success"
    assert len(await sdk.runs.list(thread_id)) == 1


async def test_a_websocket_takes_bytes_and_not_any_number_of_subscriptions(door: Door) -> None:
    socket = f"{door.urls[0].replace('http', 'ws')}/threads/{uuid4()}/stream/events"
    subscribe = {"method": "subscription.subscribe", "params": {"channels": ["lifecycle"]}}
    async with asyncio.timeout(WITHIN_S), connect(socket) as websocket:
        for number in range(MAX_SUBSCRIPTIONS + 1):
            await websocket.send(orjson.dumps({"id": number, **subscribe}))
        told = [orjson.loads(await websocket.recv()) for _ in range(MAX_SUBSCRIPTIONS + 1)]
        assert [one["type"] for one in told] == ["success"] * MAX_SUBSCRIPTIONS + ["error"]
        assert "end one" in told[-1]["message"]
        await websocket.send(b"\xff")
        assert orjson.loads(await websocket.recv())["error"] == "invalid_argument"


async def test_a_gateway_whose_clock_is_ahead_hides_nothing_that_comes(sdk: LangGraphClient, door: Door) -> None:
    thread_id = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread_id, "steps", input=EMPTY)
    key = GatewayKeys("coordinator-1").runs(thread_id)
    with redis_of(door) as redis:
        [(run_id, record)] = redis.hgetall(key).items()
        run = orjson.loads(record)
        ahead = datetime.fromisoformat(run["created_at"]) + timedelta(hours=1)
        redis.hset(key, run_id, orjson.dumps({**run, "created_at": ahead}))
    async with asyncio.timeout(WITHIN_S), sdk.threads.stream(thread_id, assistant_id="chats") as stream:
        await stream.run.start(input=HELLO)
        [message] = await all_of(stream.messages)
        assert await message.text == "hello there"


async def test_a_run_is_told_whose_answer_the_coordinator_has_not_taken_yet(sdk: LangGraphClient, door: Door) -> None:
    thread_id = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread_id, "asks", input=EMPTY)
    told: list[Any] = []
    with redis_of(door) as redis:
        listening = asyncio.create_task(listen(door, thread_id, ["lifecycle"], told))
        await until_async(lambda: len(told) == 2, "the run that asks is told", WITHIN_S)
        coordinator = door.tiers.pid("coordinator-1")
        os.kill(coordinator, signal.SIGSTOP)
        try:
            answering = asyncio.create_task(sdk.runs.create(thread_id, "asks", command={"resume": "yes"}))
            await until_async(lambda: redis.hlen(GatewayKeys("coordinator-1").runs(thread_id)) == 2, "it is recorded")
            looks = calls_of(redis, "zscore")
            await until_async(lambda: calls_of(redis, "zscore") >= looks + 5, "it looked whether it asks", WITHIN_S)
        finally:
            os.kill(coordinator, signal.SIGCONT)
    run_id = (await answering)["run_id"]
    await until_async(lambda: len(told) >= 4, "the run that goes on is told", WITHIN_S)
    listening.cancel()
    states = [event["params"]["data"]["event"] for event in told if run_id in event["event_id"]]
    assert states == ["running", "completed"]


@pytest.mark.parametrize("comes", [True, False])
async def test_a_run_is_told_whose_task_is_submitted_late_and_fails_if_it_never_is(
    sdk: LangGraphClient, door: Door, *, comes: bool
) -> None:
    """Its record is there before, so a gateway may stop, or die, in between."""
    thread_id, run_id = (await sdk.threads.create())["thread_id"], str(uuid4())
    created_at = datetime.now(UTC) - timedelta(seconds=0 if comes else 11)
    record = RunRecord(
        run_id=run_id, thread_id=thread_id, task_id=run_id, assistant_id="a", graph_id="steps", created_at=created_at
    )
    told: list[Any] = []
    done: list[str] = []
    with redis_of(door) as redis:
        redis.hset(GatewayKeys("coordinator-1").runs(thread_id), run_id, msgspec.json.encode(record))
    opened = asyncio.Event()
    listening = [asyncio.create_task(listen(door, thread_id, ["lifecycle", "updates"], told, opened))]
    await asyncio.wait_for(opened.wait(), WITHIN_S)
    for _ in range(5):  # the gateway has its answer about the task when it has that to a later request
        async with httpx.AsyncClient(headers={"X-Api-Key": KEY}, base_url=door.urls[1]) as http:
            assert (await http.get(f"/tasks/{uuid4()}/wait?timeout_s=20", timeout=WITHIN_S)).status_code == 404
    if comes:
        run = {"thread_id": thread_id, "stream": ["updates"]}
        await sdk.http.post(
            "/tasks/submit", json={"task_id": run_id, "task_type": "steps", "payload": EMPTY, "run": run}
        )
    await until_async(lambda: told and told[-1]["method"] == "lifecycle" and len(told) > 1, "it is over", WITHIN_S)
    listening.append(asyncio.create_task(join(door, thread_id, done)))
    await until_async(lambda: "run_done" in done, "it is over for those who join, too", WITHIN_S)
    for each in listening:
        each.cancel()
    said = [event["params"]["data"].get("event", event["method"]) for event in told]
    assert said == (["running", "updates", "updates", "completed"] if comes else ["running", "failed"])
    assert done == ["begins", "run_done"]


async def test_a_websocket_may_be_there_before_its_thread(door: Door) -> None:
    socket = f"{door.urls[0].replace('http', 'ws')}/threads/{uuid4()}/stream/events"
    async with asyncio.timeout(WITHIN_S), connect(socket) as websocket:
        for number, (method, params) in enumerate(
            [
                ("subscription.subscribe", {"channels": ["lifecycle"]}),
                ("run.start", {"assistant_id": "steps", "input": EMPTY}),
            ]
        ):
            await websocket.send(orjson.dumps({"id": number, "method": method, "params": params}).decode())
        told = [orjson.loads(await websocket.recv()) for _ in range(4)]
    assert {one["id"]: one["type"] for one in told if "id" in one} == {0: "success", 1: "success"}
    states = [one["params"]["data"]["event"] for one in told if one.get("method") == "lifecycle"]
    assert states == ["running", "completed"]
