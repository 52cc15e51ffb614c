"""Tasks over HTTP: two gateways of one hierarchy, of which one asks for keys and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.variables import secret_text
from core.operations.acl import rules_of_gateway
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.trace_context import TraceContext
from tests.executor_bench import USER_CODE
from tests.gateways import Gateways, gateways_of, keys_setting
from tests.waiting import until

ECHO = {"task_type": "echo", "payload": {"word": "hello"}}
ISSUER, SECRET = "https://login.example", "0123456789abcdef0123456789abcdef"
JWKS = {"keys": [{"kty": "oct", "kid": "1", "k": jwt.utils.base64url_encode(SECRET.encode()).decode()}]}
STRICT = {
    "GATEWAY_KEYS": keys_setting(
        ada="operator",
        eve="viewer",
        bob="viewer",
        kim="viewer",
        root="admin",
        acme="operator acme",
        other="operator other",
    ),
    "GATEWAY_JWT_KEYS": json.dumps(JWKS),
    "GATEWAY_JWT_ALGORITHM": "HS256",
    "GATEWAY_JWT_ISSUER": ISSUER,
    "GATEWAY_CORS_ORIGINS": "https://chat.example",
    "GATEWAY_BODY_MB": "0.5",
    "GATEWAY_RATE_PER_S": "500",
}

KEY_OF_ADA = {"GATEWAY_KEYS": keys_setting(ada="operator")}
SLOW = STRICT | {"GATEWAY_RATE_PER_S": "0.01"}


@dataclass
class Doors:
    gateways: Gateways
    open: str
    strict: str
    slow: str  #: an operator's, and lets everybody in once in a hundred seconds

    def client(self, key: str = "") -> httpx.Client:
        """Of the open gateway; with a key, of the other one."""
        headers = {"X-Api-Key": f"{key}-key"} if key else {}
        return httpx.Client(base_url=self.strict if key else self.open, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Doors]:
    with gateways_of(processes, tmp_path_factory.mktemp("gateway"), USER_CODE, MAX_OPEN_TASKS="1500") as gateways:
        without_keys, strict = gateways.start_all({}, STRICT)
        yield Doors(gateways, without_keys, strict, gateways.start("operator:ops", **SLOW))


@pytest.fixture
def http(doors: Doors) -> Iterator[httpx.Client]:
    with doors.client() as client:
        yield client


def redis_of(doors: Doors) -> redis.Redis:
    at = doors.gateways.tiers.redis
    return redis.Redis.from_url(f"{secret_text(at.url)}", password=secret_text(at.password))


def submitted(client: httpx.Client, *tasks: dict[str, Any]) -> list[str]:
    answer = client.post("/tasks/submit", json={"tasks": tasks})
    assert answer.status_code == 202, answer.text
    found: list[str] = answer.json()["task_ids"]
    return found


def problem(answer: httpx.Response, status: int) -> str:
    """What a problem says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status
    detail: str = answer.json()["detail"]
    return detail


def test_a_task_is_submitted_waited_for_and_looked_at(http: httpx.Client) -> None:
    answer = http.post("/tasks/submit", json=ECHO)
    assert answer.status_code == 202
    [task_id] = answer.json()["task_ids"]

    ended = http.get(f"/tasks/{task_id}/wait", params={"timeout_s": 20})

    assert ended.status_code == 200
    assert ended.json() == {"task_id": task_id, "status": "completed", "result": {"word": "hello"}, "error": None}
    assert http.get(f"/tasks/{task_id}/result").json() == ended.json()
    task = http.get(f"/tasks/{task_id}").json()
    assert (task["task_type"], task["payload"], task["retry_count"]) == ("echo", {"word": "hello"}, 1)
    assert http.get(f"/tasks/{task_id}/explain").json()["waits_for"] == "nothing"


def test_a_thousand_tasks_are_one_request_and_a_thousand_and_one_none(http: httpx.Client) -> None:
    ids = submitted(http, *[{"task_type": "echo", "payload": number} for number in range(1000)])
    assert len({*ids}) == 1000
    assert http.get(f"/tasks/{ids[-1]}/wait").json()["result"] == 999
    assert "1000 items" in problem(http.post("/tasks/submit", json={"tasks": [ECHO] * 1001}), 422)


def test_tasks_are_listed_page_by_page_each_once(http: httpx.Client) -> None:
    ids = submitted(http, *[{"task_type": "nobody_can", "task_id": f"page/{number}"} for number in range(30)])
    found: list[str] = []
    wanted = {"type": "nobody_can", "limit": "7"}
    while True:
        page = http.get("/tasks", params=wanted)
        assert len(page.json()["tasks"]) <= 7
        found += [task["task_id"] for task in page.json()["tasks"]]
        if page.json()["next_cursor"] is None:
            break
        wanted["cursor"] = page.json()["next_cursor"]
    assert sorted(found) == sorted(ids)
    assert http.get("/tasks", params={"type": "nobody_can", "status": "completed"}).json()["tasks"] == []
    assert "`next_cursor`" in problem(http.get("/tasks", params={"cursor": "nonsense"}), 422)
    assert http.get("/tasks/status").json()["open"] >= 30


def test_an_open_task_says_why_it_waits_and_can_be_cancelled(http: httpx.Client) -> None:
    [task_id] = submitted(http, {"task_type": "nobody_has_this"})
    why = http.get(f"/tasks/{task_id}/explain").json()
    assert "nobody_has_this" in why["sentence"]
    assert why["stuck"]
    assert http.get(f"/tasks/{task_id}/wait", params={"timeout_s": 0.01}).status_code == 202
    assert "wait" in problem(http.get(f"/tasks/{task_id}/result"), 409)

    assert http.post(f"/tasks/{task_id}/cancel").json()["status"] == "cancelled"

    assert http.get(f"/tasks/{task_id}/result").json()["status"] == "cancelled"


def test_how_a_task_has_failed_is_told_without_a_trace(http: httpx.Client) -> None:
    [task_id] = submitted(http, {"task_type": "count", "payload": {"text": 7}, "max_attempts": 1})
    ended = http.get(f"/tasks/{task_id}/wait").json()
    assert ended["status"] == "failed"
    assert ended["error"]["type"]
    assert "Traceback" not in http.get(f"/tasks/{task_id}").text


def test_the_same_request_again_is_the_same_task_at_any_gateway(doors: Doors, http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "order-7"}
    first = http.post("/tasks/submit", json=ECHO, headers=headers)
    again = http.post("/tasks/submit", json=ECHO, headers=headers)
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = http.post("/tasks/submit", json={**ECHO, "payload": 1}, headers=headers)
    assert "was used for another request" in problem(other, 409)
    with doors.client("ada") as ada:  # another's key of the same name is another key
        assert ada.post("/tasks/submit", json=ECHO, headers=headers).json() != first.json()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"task_type": "echo", "payloads": 1}, "payloads: there is no such field"),
        ({"task_type": "no such name"}, "task_type"),
        ({"task_type": "echo", "priority": "soon"}, "priority"),
        ({"task_type": "echo", "deadline": "2030-01-01T00:00:00"}, "deadline"),
        ({"task_type": "echo", "run": {"thread": "t"}}, "thread"),
        ({"tasks": []}, "tasks"),
        ([], "neither a task nor"),
        (7, "neither a task nor"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_field(http: httpx.Client, body: Any, says: str) -> None:
    assert says in problem(http.post("/tasks/submit", json=body), 422)


def test_what_is_not_there_is_told_as_a_problem(http: httpx.Client) -> None:
    assert "never submitted here" in problem(http.get("/tasks/nothing"), 404)
    assert "/openapi.json lists" in problem(http.get("/nowhere"), 404)
    wrong = http.delete("/tasks/status")
    assert "does not take DELETE" in problem(wrong, 405)
    assert wrong.headers["Allow"]
    assert "JSON" in problem(
        http.post("/tasks/submit", content=b"{", headers={"Content-Type": "application/json"}), 422
    )


def test_without_keys_only_this_machine_may_use_it(http: httpx.Client) -> None:
    for headers in {"Origin": "https://elsewhere.example"}, {"Host": "elsewhere.example"}:
        assert "only pages and programs of this machine" in problem(http.get("/info", headers=headers), 403)


def test_who_has_no_key_or_not_the_right_one_is_not_let_in(doors: Doors) -> None:
    with httpx.Client(base_url=doors.strict) as nobody:
        assert nobody.get("/ok").status_code == 200
        assert nobody.get("/health").json() == {"status": "healthy"}
        refused = nobody.get("/tasks")
        assert "give an API key" in problem(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "not known here" in problem(nobody.get("/tasks", headers={"X-Api-Key": "wrong"}), 401)
    with doors.client("eve") as eve:
        assert eve.get("/tasks").status_code == 200
        assert eve.get("/health").json()["agents"]["worker"] == {"active": 1}
        assert "viewer may not change tasks" in problem(eve.post("/tasks/submit", json=ECHO), 403)


def test_a_token_is_as_good_as_a_key(doors: Doors) -> None:
    said = {"sub": "bob", "aud": "agent-system", "iss": ISSUER, "exp": 4_000_000_000}

    def asks(**more: Any) -> httpx.Response:
        token = jwt.encode({**said, **more}, SECRET, "HS256", headers={"kid": "1"})
        return httpx.post(f"{doors.strict}/tasks/submit", json=ECHO, headers={"Authorization": f"Bearer {token}"})

    assert asks(role="operator").status_code == 202
    assert "viewer may not" in problem(asks(role="viewer"), 403)
    assert "has expired" in problem(asks(role="operator", exp=1), 401)


def test_a_key_of_a_tenant_sees_and_submits_only_what_is_that_tenants(doors: Doors) -> None:
    with doors.client("acme") as acme, doors.client("other") as other, doors.client("ada") as ada:
        [mine] = submitted(acme, {**ECHO, "task_id": "of-acme"})
        [theirs] = submitted(other, ECHO)
        assert {task["task_id"] for task in acme.get("/tasks").json()["tasks"]} == {mine}
        assert acme.get(f"/tasks/{mine}").json()["tenant"] == "acme"
        for path in "", "/result", "/wait", "/explain":
            problem(acme.get(f"/tasks/{theirs}{path}"), 404)
        problem(other.post(f"/tasks/{mine}/cancel"), 404)
        assert "is taken" in problem(other.post("/tasks/submit", json={**ECHO, "task_id": mine}), 409)
        assert "for tenant 'acme' alone" in problem(acme.post("/tasks/submit", json={**ECHO, "tenant": "other"}), 403)
        assert "tenant 'acme' alone" in problem(acme.get("/tasks/status"), 403)
        seen = {task["task_id"] for task in ada.get("/tasks", params={"tenant": "acme"}).json()["tasks"]}
        assert seen == {mine}


def test_a_body_that_is_too_large_or_of_unknown_size_is_refused(doors: Doors) -> None:
    with doors.client("ada") as ada:
        large = ada.post("/tasks/submit", content=b" " * (512 * 1024 + 1))
        assert "over the limit of 524288" in problem(large, 413)
        assert "Content-Length" in problem(ada.post("/tasks/submit", content=iter([b"{}"])), 411)


def test_a_page_of_a_configured_origin_is_let_in(doors: Doors) -> None:
    with doors.client("eve") as eve:
        for origin, allowed in (("https://chat.example", True), ("https://elsewhere.example", False)):
            answer = eve.get("/tasks", headers={"Origin": origin})
            assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed


def test_who_asks_too_often_waits_at_every_gateway(doors: Doors) -> None:
    """The gateways count together."""
    key = {"X-Api-Key": "bob-key"}
    assert httpx.get(f"{doors.slow}/tasks", headers=key).status_code == 200
    for url in doors.slow, doors.strict:
        refused = httpx.get(f"{url}/tasks", headers=key)
        assert "GATEWAY_RATE_PER_S" in problem(refused, 429)
        assert 0 < int(refused.headers["Retry-After"]) <= 100
    assert httpx.get(f"{doors.slow}/ok").status_code == 200


def test_what_comes_over_a_websocket_counts_and_is_no_larger_than_a_body(doors: Doors) -> None:
    path, told = "threads/any/stream/events", {"id": 1, "method": "subscription.unsubscribe"}
    key = {"X-Api-Key": "kim-key"}
    with connect(f"{doors.slow.replace('http', 'ws')}/{path}", additional_headers=key) as websocket:
        websocket.send(json.dumps(told))
        assert "GATEWAY_RATE_PER_S" in json.loads(websocket.recv(30))["message"]
    with connect(f"{doors.strict.replace('http', 'ws')}/{path}", additional_headers={"X-Api-Key": "ada-key"}) as large:
        large.send("x" * (512 * 1024 + 1))
        with pytest.raises(ConnectionClosedError, match="1009"):
            large.recv(30)


def test_prometheus_reads_what_a_gateway_answers_and_how_the_fleet_is(doors: Doors) -> None:
    with doors.client("eve") as viewer:
        viewer.get("/tasks/no-such-task")
        told = viewer.get("/metrics")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(told.text)
        for sample in family.samples
    }

    assert found["gateway_requests_total", "/tasks/{task_id:path}", "404", "GET"] >= 1
    assert found["gateway_requests_in_flight",] == 1, "this one"
    assert found["fleet_agents", "active", "worker"] == 1
    assert not [labels for labels in found if "no-such-task" in labels], "paths are no labels"
    assert httpx.get(f"{doors.open}/metrics").status_code == 200
    assert httpx.get(f"{doors.strict}/metrics").status_code == 401


def test_a_record_that_somebody_else_wrote_to_redis_is_shown_to_nobody(doors: Doors, http: httpx.Client) -> None:
    task_id, copied = submitted(
        http, {**ECHO, "task_id": "sealed/1"}, {"task_type": "nobody_can", "task_id": "sealed/2"}
    )
    assert http.get(f"/tasks/{task_id}/wait").json()["result"] == {"word": "hello"}
    records = CoordinatorKeys("coordinator-1").tasks
    before = rejected_records(http)
    with redis_of(doors) as client:
        ours, theirs = bytes(client.hget(records, task_id) or b""), bytes(client.hget(records, copied) or b"")
        for forged in (ours.replace(b"hello", b"hullo"), theirs, b"no task", orjson.dumps({"task_id": task_id})):
            client.hset(records, task_id, forged)
            problem(http.get(f"/tasks/{task_id}"), 404)
            problem(http.get(f"/tasks/{task_id}/result"), 404)
            assert task_id not in [task["task_id"] for task in http.get("/tasks").json()["tasks"]]
        client.hset(records, task_id, ours)

    assert http.get(f"/tasks/{task_id}/result").json()["result"] == {"word": "hello"}
    assert rejected_records(http) == before + 12
    said = [line for line in doors.gateways.log(doors.open).splitlines() if "record_rejected" in line]
    assert len([line for line in said if "sealed/1" in line]) == 1, "not at each look"
    http.post(f"/tasks/{copied}/cancel")


def test_a_gateway_explains_and_tells_of_quotas_by_what_agents_have_sealed(doors: Doors, http: httpx.Client) -> None:
    [task_id] = submitted(http, {"task_type": "wait_async", "task_id": "sealed/3"})
    until(lambda: http.get(f"/tasks/{task_id}/explain").json()["waits_for"] == "running", "it runs")
    cell, quotas = CellKeys("distributor-1").actual, CoordinatorKeys("coordinator-1").quotas
    tiers = doors.gateways.tiers
    with redis_of(doors) as client, AgentClient(tiers.redis, tiers.secrets, client_id="operator:test") as operator:
        ours = bytes(client.hget(cell, task_id) or b"")
        client.hset(cell, task_id, ours.replace(b'"attempt":1', b'"attempt":7'))
        why = http.get(f"/tasks/{task_id}/explain").json()
        assert ("attempt 7" in why["sentence"], why["waits_for"]) == (False, "all_full")
        client.hset(cell, task_id, ours)
        assert "attempt 1" in http.get(f"/tasks/{task_id}/explain").json()["sentence"]
        http.post(f"/tasks/{task_id}/cancel")

        for name in "tenant:sealed", "tenant:other":
            operator.set_quota(name, at_once=3)
        sealed = client.hgetall(quotas)
        client.hset(quotas, b"tenant:sealed", sealed[b"tenant:sealed"].replace(b"3", b"9", 1))
        client.hset(quotas, b"tenant:made-up", sealed[b"tenant:other"])
        client.hset(quotas, b"tenant:none", b'{"at_once":0}')
        found = http.get("/quotas").json()["quotas"]
        assert [(quota["name"], quota["at_once"]) for quota in found] == [("tenant:other", 3)]
        client.hdel(quotas, b"tenant:made-up", b"tenant:none")
        for name in "tenant:sealed", "tenant:other":
            operator.remove_quota(name)


def rejected_records(http: httpx.Client) -> float:
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "gateway_records_rejected_total":
                return sample.value
    return 0


def test_a_task_is_part_of_the_trace_that_its_request_names(doors: Doors, http: httpx.Client) -> None:
    named = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = http.post("/tasks/submit", json=ECHO, headers={"traceparent": named})
    [task_id] = answer.json()["task_ids"]

    tiers = doors.gateways.tiers
    with AgentClient(tiers.redis, tiers.secrets, client_id="operator:test") as operator:
        assert operator.result(task_id, timeout_s=20).trace == TraceContext(named)


def test_an_admin_changes_strategy_and_quotas_at_the_gateway_of_an_operator(doors: Doors, http: httpx.Client) -> None:
    wanted = {"strategy": "round_robin"}
    with doors.client("ada") as ada:
        assert "operator may not change the fleet" in problem(ada.put("/load-balancer/strategy", json=wanted), 403)
    assert "--id operator:NAME" in problem(http.put("/load-balancer/strategy", json=wanted), 403)
    assert "--id operator:NAME" in problem(http.put("/quotas/tenant:acme", json={"at_once": 2}), 403)
    key = {"X-Api-Key": "root-key"}
    changed = httpx.put(f"{doors.slow}/load-balancer/strategy", json=wanted, headers=key)
    assert changed.json() == {"strategy": "round_robin", "own": {}}
    until(lambda: http.get("/load-balancer/strategy").json()["strategy"] == "round_robin", "it holds everywhere")
    [distributor] = http.get("/load-balancer/stats").json()["distributors"]
    assert distributor["distributor_id"] == "distributor-1"
    assert http.get("/quotas").json() == {"quotas": []}


def test_a_user_of_redis_that_may_do_what_is_printed_runs_a_gateway(doors: Doors) -> None:
    gateway = Address(Role.CLIENT, "narrow")
    rules = rules_of_gateway((Address(Role.COORDINATOR, "coordinator-1"), gateway))
    with redis_of(doors) as admin:
        admin.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">narrow", *" ".join(rules).split())
        admin.execute_command("ACL", "LOG", "RESET")
        narrow = doors.gateways.start(
            "narrow", REDIS_USERNAME="narrow", REDIS_PASSWORD="narrow", GATEWAY_RATE_PER_S="1000", **KEY_OF_ADA,
            GATEWAY_WEBHOOK_HOSTS="127.0.0.1", WEBHOOK_SECRET="a secret that receivers know",
        )  # fmt: skip
        webhooks = CoordinatorKeys("coordinator-1").webhooks
        gateway_keys = GatewayKeys("coordinator-1")
        admin.hset(gateway_keys.webhooks, "foreign", b"no delivery")
        admin.zadd(gateway_keys.webhooks_due, {"foreign": 0})
        admin.hset(gateway_keys.threads, "foreign", b"no thread")
        admin.zadd(gateway_keys.recent, {"foreign": 0})
        admin.set(gateway_keys.store_index, b"no index")
        admin.zadd(gateway_keys.expiring, {b"foreign": 0, b"foreign \xff": 0})
        admin.hset(webhooks, mapping={b"foreign \xff": b"\xff", b"firing": b"http://127.0.0.1:9/ended"})
        with httpx.Client(base_url=narrow, headers={"X-Api-Key": "ada-key"}, timeout=30) as ada:
            [task_id] = submitted(ada, {**ECHO, "task_id": "narrow/1"})
            assert ada.get(f"/tasks/{task_id}/wait").json()["status"] == "completed"
            assert ada.post("/tasks/submit", json=ECHO, headers={"Idempotency-Key": "n"}).status_code == 202
            for path in (
                "/tasks?limit=1", f"/tasks/{task_id}/explain", "/tasks/status", "/load-balancer/stats", "/quotas",
                "/messages/history", "/health", "/metrics", "/agents/wren/messages", "/agents/wren/peers",
            ):  # fmt: skip
                assert ada.get(path).status_code == 200, path
            cursor = ada.get("/tasks?limit=1").json()["next_cursor"]
            assert ada.get("/tasks", params={"cursor": cursor}).status_code == 200
            for kind in ("assistants", "threads"):
                assert ada.post(f"/{kind}/search", json={}).status_code == 200
            item = {"namespace": ["n"], "key": "k", "value": {}}
            assert ada.put("/store/items", json=item).status_code == 204
            until(lambda: not admin.hlen(webhooks), "it takes on the webhooks of schedules, and drops what is none")
            until(lambda: not admin.zcard(gateway_keys.expiring), "it drops what is no thread")
            admin.hdel(gateway_keys.threads, "foreign")
            admin.zrem(gateway_keys.recent, "foreign")
            assert admin.hkeys(gateway_keys.webhooks) == [b"foreign", b"firing"]
            assert ada.get("/health").status_code == 200
        assert admin.execute_command("ACL", "LOG") == []


def test_a_coordinator_that_has_no_room_is_told_as_503(doors: Doors, http: httpx.Client) -> None:
    """Of a batch, the first that have room are accepted. It is the last test, since nothing has room after it."""
    many = {"tasks": [{"task_type": "nobody_ever"}] * 1000}
    answers = [http.post("/tasks/submit", json=many) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    assert "(MAX_OPEN_TASKS)" in problem(answers[2], 503)
    assert answers[2].headers["Retry-After"]
    said = answers[1].json()
    assert len(said["task_ids"]) + len(said["refused"]) == 1000
    assert len(said["refused"]) > 0
