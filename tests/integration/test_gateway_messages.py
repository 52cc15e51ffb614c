"""Messages of agents and events of the hierarchy, over HTTP, at two gateways of which one is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from core.registry.agent_info import Declared
from core.registry.agent_registry import AgentRegistry
from core.registry.source import registry_source
from tests.executor_bench import USER_CODE
from tests.gateways import Gateways, gateways_of, keys_setting
from tests.integration.test_gateway_tasks import problem
from tests.waiting import until

KEYS = {
    "GATEWAY_KEYS": keys_setting(
        ada="operator", wren="agent", eve="viewer", acme="operator acme", spy="viewer acme", rival="operator rival"
    )
}


@dataclass
class Doors:
    gateways: Gateways
    open: str
    strict: str


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Doors]:
    with gateways_of(processes, tmp_path_factory.mktemp("gateway"), USER_CODE) as gateways:
        doors = Doors(gateways, *gateways.start_all({}, KEYS))
        asyncio.run(register(gateways.tiers.redis))
        yield doors


async def register(redis: RedisConfig) -> None:
    async with registry_source(redis) as source:
        registry = AgentRegistry("coordinator-1", source)
        wren = Declared(agent_id="wren", agent_type="consumer", capabilities=("read", "write"))
        for agent in wren, Declared(agent_id="owl", capabilities=("read",)):
            await registry.register(agent, lease_ms=600_000)


@pytest.fixture
def http(doors: Doors) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=doors.open, timeout=30) as client:
        for name in "wren", "owl":  # what other tests have left
            while waiting := client.get(f"/agents/{name}/messages").json()["messages"]:
                ids = [message["message_id"] for message in waiting]
                client.post(f"/agents/{name}/messages/ack", json={"message_ids": ids})
        yield client


def message(**more: Any) -> dict[str, Any]:
    return {"sender_id": "ada", "receiver_id": "wren", "protocol": "peer_to_peer", **more}


def test_peers_write_to_each_other_and_the_most_urgent_comes_first(http: httpx.Client) -> None:
    assert "PUT /agents/ada/peers/wren connects them" in problem(http.post("/messages/send", json=message()), 409)
    assert http.put("/agents/ada/peers/wren").json() == {"peers": {"wren": "peer"}}
    for priority in "low", "critical", "normal", "critical":
        sent = http.post("/messages/send", json=message(priority=priority, payload={"is": priority}))
        assert (sent.status_code, sent.json()["receivers"]) == (202, 1)

    waiting = http.get("/agents/wren/messages").json()["messages"]

    assert [one["payload"]["is"] for one in waiting] == ["critical", "critical", "normal", "low"]
    assert waiting[0]["sent_by"] == "this machine"
    ids = [one["message_id"] for one in waiting[:3]]
    assert http.post("/agents/wren/messages/ack", json={"message_ids": [*ids, "other"]}).json() == {"acknowledged": 3}
    assert [one["priority"] for one in http.get("/agents/wren/messages").json()["messages"]] == ["low"]
    assert http.delete("/agents/wren/peers/ada").status_code == 204
    assert "not connected" in problem(http.delete("/agents/ada/peers/wren"), 404)


def test_who_waits_is_told_at_once_at_whatever_gateway_it_waits(doors: Doors, http: httpx.Client) -> None:
    http.put("/agents/ada/peers/wren", json={"relation": "subordinate"})
    assert http.get("/agents/wren/peers").json()["peers"]["ada"] == "superior"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            httpx.get, f"{doors.strict}/agents/wren/messages?timeout_s=25", timeout=30,
            headers={"X-Api-Key": "wren-key"},
        )  # fmt: skip
        down = message(protocol="hierarchical", correlation_id="c-1", payload="down")
        assert http.post("/messages/send", json=down).status_code == 202
        [received] = waiting.result().json()["messages"]
    assert (received["payload"], received["correlation_id"]) == ("down", "c-1")
    assert "wren is no peer" in problem(http.post("/messages/send", json=message()), 409).replace("'", "")


def test_a_broadcast_reaches_all_that_fit(http: httpx.Client) -> None:
    fitting = {"agent_type": "consumer", "capabilities": ["read", "write"]}
    body = message(receiver_id=None, protocol="broadcast", message_type="broadcast", payload="hear")
    assert http.post("/messages/send", json=body | fitting).json()["receivers"] == 1
    assert http.post("/messages/send", json=body | {"agent_type": "provider"}).json()["receivers"] == 0
    assert http.post("/messages/send", json=body | fitting | {"sender_id": "owl"}).json()["receivers"] == 1
    assert [one["payload"] for one in http.get("/agents/wren/messages").json()["messages"]] == ["hear", "hear"]
    assert http.get("/agents/owl/messages").json()["messages"] == []


def test_a_message_whose_time_is_over_is_discarded(http: httpx.Client) -> None:
    http.put("/agents/ada/peers/wren")
    for ttl_s in 1, 60:
        http.post("/messages/send", json=message(ttl_s=ttl_s, payload=ttl_s))

    def waiting() -> list[Any]:
        return [one["payload"] for one in http.get("/agents/wren/messages").json()["messages"]]

    assert 60 in waiting()
    until(lambda: waiting() == [60], "the other one is gone")


def test_a_message_that_is_sent_again_under_its_key_is_one(http: httpx.Client) -> None:
    http.put("/agents/ada/peers/wren")
    sent = [http.post("/messages/send", json=message(), headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert sent[0].json() == sent[1].json()
    assert len(http.get("/agents/wren/messages").json()["messages"]) == 1


def test_sent_messages_are_remembered_page_by_page(http: httpx.Client) -> None:
    http.put("/agents/ada/peers/wren")
    ids = [
        http.post("/messages/send", json=message(correlation_id="talk", reply_to="message-1")).json()["message_id"]
        for _ in range(5)
    ]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = http.get("/messages/history", params={"correlation_id": "talk", "limit": "2", **cursor}).json()
        found += [one["message_id"] for one in page["messages"]]
        assert all("payload" not in one and one["reply_to"] == "message-1" for one in page["messages"])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == ids[::-1]


@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [
        ({"message_type": "consensus"}, 422, "no protocol of consensus here"),
        ({"message_type": "hierarchical"}, 422, "contradicts protocol peer_to_peer"),
        ({"protocol": "gossip"}, 422, "protocol"),
        ({"receiver_id": None}, 422, "receiver_id: missing"),
        ({"protocol": "broadcast"}, 422, "leave it out"),
        ({"agent_type": "worker"}, 422, "leave them out"),
        ({"receiver_id": "nobody"}, 404, "has to register"),
        ({"ttl_s": 0}, 422, "ttl_s"),
        ({"priority": "urgent"}, 422, "priority"),
        ({"payload": "x" * 65536}, 413, "64"),
    ],
)
def test_a_message_that_cannot_be_delivered_is_refused(
    http: httpx.Client, wrong: dict[str, Any], status: int, says: str
) -> None:
    assert says in problem(http.post("/messages/send", json=message(**wrong)), status).replace("65536", "64 KiB")


def test_an_agent_is_only_itself(doors: Doors) -> None:
    key = {"X-Api-Key": "wren-key"}
    with httpx.Client(base_url=doors.strict, headers=key) as agent:
        assert "cannot act as 'owl'" in problem(agent.get("/agents/owl/messages"), 403)
        assert "cannot act as 'ada'" in problem(agent.post("/messages/send", json=message()), 403)
        assert agent.get("/agents/wren/messages").status_code == 200
        assert "agent may not see tasks" in problem(agent.get("/tasks"), 403)


def told(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Type, id and data of each event of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("event", "data", "id"):
            fields[name] = value
        elif not line and fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}


def ended_in(events: Iterator[tuple[str, str, Any]], count: int) -> list[tuple[str, str]]:
    """The id of each event, and the task that it says has ended, until so many have."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        _, event_id, data = next(events)
        found.append((event_id, data["task_id"]))
    return found


def test_events_go_on_at_another_gateway_when_one_is_killed_without_a_gap(doors: Doors, http: httpx.Client) -> None:
    """So do requests: what one of them has accepted is there."""
    doomed = doors.gateways.start()
    wanted = {"type": "task_completed"}
    with httpx.stream("GET", f"{doomed}/events/stream", params=wanted | {"after": "0"}, timeout=30) as stream:
        before = httpx.post(f"{doomed}/tasks/submit", json={"tasks": [{"task_type": "echo"}] * 30}).json()["task_ids"]
        events = told(stream.iter_lines())
        seen: list[tuple[str, str]] = []
        while len({task_id for _, task_id in seen} & {*before}) < 10:
            seen += ended_in(events, 1)
        doors.gateways.kill(doomed)
    after = http.post("/tasks/submit", json={"tasks": [{"task_type": "echo"}] * 30}).json()["task_ids"]
    headers = {"Last-Event-ID": seen[-1][0]}
    with http.stream("GET", "/events/stream", params=wanted, headers=headers) as stream:
        events = told(stream.iter_lines())
        while not {*before, *after} <= {task_id for _, task_id in seen}:
            seen += ended_in(events, 1)
    with http.stream("GET", "/events/stream", params=wanted | {"after": "0"}) as stream:
        assert ended_in(told(stream.iter_lines()), len(seen)) == seen
    for task_id in (*before, *after):
        assert http.get(f"/tasks/{task_id}/wait").json()["status"] == "completed"


async def test_events_come_over_a_websocket_behind_the_one_that_is_named(doors: Doors) -> None:
    socket_url = doors.strict.replace("http", "ws") + "/events/ws?type=lease_acquired&type=agent_joined"
    headers = {"X-Api-Key": "eve-key"}
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url)
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{socket_url}&after=nonsense", additional_headers=headers)
    assert refused.value.response.status_code == 422
    async with connect(f"{socket_url}&after=0", additional_headers=headers) as socket, asyncio.timeout(20):
        first, second, third = [json.loads(await socket.recv()) for _ in range(3)]
        await socket.send("whatever")
    async with connect(f"{socket_url}&after={first['id']}", additional_headers=headers) as socket, asyncio.timeout(20):
        assert [json.loads(await socket.recv()) for _ in range(2)] == [second, third]


async def test_a_tenant_is_told_of_its_own_tasks_only_and_that_something_was_missed(doors: Doors) -> None:
    def submit(who: str) -> str:
        headers = {"X-Api-Key": f"{who}-key"}
        answer = httpx.post(f"{doors.strict}/tasks/submit", json={"task_type": "echo"}, headers=headers)
        [task_id] = answer.json()["task_ids"]
        httpx.get(f"{doors.strict}/tasks/{task_id}/wait", headers=headers, timeout=30)
        return str(task_id)

    mine, theirs, last = submit("acme"), submit("rival"), submit("acme")
    spy = {"X-Api-Key": "spy-key"}
    seen: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{doors.strict}/events/stream?after=0", headers=spy, timeout=30) as stream:
        for kind, _, event in told(stream.iter_lines()):
            seen.append(event)
            if (kind, event["task_id"]) == ("task_completed", last):
                break
    assert {event["task_id"] for event in seen} == {mine, last}
    assert theirs not in json.dumps(seen)

    socket_url = f"{doors.strict.replace('http', 'ws')}/events/ws?after=0"
    async with connect(socket_url, additional_headers=spy) as socket, asyncio.timeout(20):
        assert [json.loads(await socket.recv()) for _ in seen] == seen

    with httpx.stream("GET", f"{doors.strict}/events/stream?after=1-1", headers=spy, timeout=30) as stream:
        kind, _, event = next(told(stream.iter_lines()))
        assert (kind, event["data"]["after"]) == ("events_missed", "1-1")


def test_a_message_that_a_tenant_has_sent_is_seen_by_that_tenant_only(doors: Doors, http: httpx.Client) -> None:
    def asked(who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{doors.strict}{path}", headers={"X-Api-Key": f"{who}-key"}, **more)

    sent = [
        asked(who, "POST", "/messages/send", json={"sender_id": who, "protocol": "broadcast", "payload": who})
        for who in ("acme", "rival", "ada")
    ]
    mine, theirs, ours = (answer.json()["message_id"] for answer in sent)

    assert [one["message_id"] for one in asked("spy", "GET", "/messages/history").json()["messages"]] == [mine]
    everything = asked("eve", "GET", "/messages/history").json()["messages"]
    assert {mine, theirs, ours} <= {one["message_id"] for one in everything}
    assert [one["payload"] for one in asked("acme", "GET", "/agents/wren/messages").json()["messages"]] == ["acme"]
    waited = asked("rival", "GET", "/agents/wren/messages?timeout_s=5").json()["messages"]
    assert [one["payload"] for one in waited] == ["rival"]
    both = {"message_ids": [mine, theirs, ours]}
    assert asked("acme", "POST", "/agents/wren/messages/ack", json=both).json() == {"acknowledged": 1}
    assert asked("acme", "POST", "/agents/wren/messages/ack", json=both).json() == {"acknowledged": 0}
    assert "may not receive messages" in problem(asked("spy", "GET", "/agents/wren/messages"), 403)
    kept = asked("wren", "GET", "/agents/wren/messages").json()["messages"]
    assert {one["payload"] for one in kept} == {"rival", "ada"}


def test_a_tenant_sees_the_fleet_but_no_totals_and_takes_no_work(doors: Doors) -> None:
    def asked(path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return httpx.request(method, f"{doors.strict}{path}", headers={"X-Api-Key": "acme-key"}, **more)

    for path in "/agents", "/registry/stats", "/load-balancer/stats", "/quotas", "/schedules", "/webhooks/failed":
        assert asked(path).status_code == 200
    for path in "/metrics", "/tasks/status", "/agents/wren/tasks":
        assert "tenant 'acme' alone" in problem(asked(path), 403)
    assert "tenant 'acme' alone" in problem(asked("/agents/register", "POST", json={"agent_id": "acme"}), 403)
    for method in "PUT", "DELETE":  # connections are of all
        assert "tenant 'acme' alone" in problem(asked("/agents/wren/peers/ada", method), 403)


def test_what_is_asked_of_events_is_checked(http: httpx.Client) -> None:
    assert "no id of an event" in problem(http.get("/events/stream", params={"after": "x"}), 422)
    assert "type" in problem(http.get("/events/stream", params={"type": "nonsense"}), 422)
