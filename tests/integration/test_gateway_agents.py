"""Agents in any language: registered, found, given tasks and heard over HTTP, and as safe as any worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.tasks import Task
from tests.gateways import answers, free_port
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import ForkedTiers
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Edge:
    """A coordinator and a distributor without workers, and gateways that come and go."""

    def __init__(self, tiers: ForkedTiers, folder: Path, stack: ExitStack, client: AgentClient) -> None:
        self._tiers, self._folder, self._stack = tiers, folder, stack
        self.client = client
        self.gateway, self.url = self.start()

    def start(self) -> tuple[subprocess.Popen[bytes], str]:
        port = free_port()
        log = self._stack.enter_context((self._folder / f"gateway-{port}.log").open("wb"))
        gateway = subprocess.Popen(
            [sys.executable, "-m", "core.cli", "gateway", "--port", f"{port}"],
            env=self._tiers._environment, cwd=self._folder, stdout=log, stderr=log,
        )  # fmt: skip
        self._stack.callback(gateway.wait)
        self._stack.callback(gateway.kill)
        url = f"http://127.0.0.1:{port}"
        until(partial(answers, url), "the gateway answers", 100)
        return gateway, url

    def curl(self, method: str, path: str, body: Any = None, *, url: str = "") -> tuple[int, Any]:
        """Status and body, as curl gets them."""
        command = ["curl", "--silent", "--request", method, "--write-out", "\n%{http_code}", f"{url or self.url}{path}"]
        if body is not None:
            command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        text, _, status = told.rpartition("\n")
        return int(status), json.loads(text) if text else None

    def register(self, agent_id: str, *, url: str = "", **fields: Any) -> Any:
        status, told = self.curl("POST", "/agents/register", {"agent_id": agent_id, **fields}, url=url)
        assert status == 201, told
        return told

    def take(self, agent_id: str, *, url: str = "", query: str = "wait_s=20") -> dict[str, Any]:
        """The only task that it is given."""
        status, told = self.curl("GET", f"/agents/{agent_id}/tasks?{query}", url=url)
        assert status == 200, told
        [attempt] = told["tasks"]
        assert isinstance(attempt, dict)
        return attempt


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(bundled_server()))
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        tiers = stack.enter_context(
            ForkedTiers(
                processes, redis, folder, AGENT_HEARTBEAT_S="0.2", AGENT_FAILURE_TIMEOUT_S="2", AGENT_LEASE_S="2"
            )
        )
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        secrets = A2ASecrets(token_secret=tiers._environment["A2A_TOKEN_SECRET"])
        client = stack.enter_context(AgentClient(redis, secrets, "coordinator-1", "gateway"))
        yield Edge(tiers, folder, stack, client)


def test_an_agent_without_services_is_only_listed_and_found(edge: Edge) -> None:
    told = edge.register(
        "probe-1", agent_type="provider", capabilities=["weather"], tags=["region=eu"], metadata={"of": "ada"},
        endpoints={"http": "http://10.0.0.1/"}, version="2",
    )  # fmt: skip
    assert (told["status"], told["lifecycle"], told["health_score"]) == ("active", "active", 1.0)
    for method, path, body in (
        ("POST", "/agents/discover", {"capabilities": ["weather"], "tags": ["region=eu"], "min_health": 0.5}),
        ("GET", "/agents/capability/weather", None),
    ):
        status, page = edge.curl(method, path, body)
        assert (status, [agent["agent_id"] for agent in page["agents"]], page["next"]) == (200, ["probe-1"], None)
    assert edge.curl("PUT", "/agents/probe-1/status", {"status": "inactive"})[1]["status"] == "inactive"
    status, beat = edge.curl("POST", "/agents/probe-1/heartbeat", {"load_metrics": {"cpu": 1.5}, "error_rate": 0.5})
    assert (status, beat) == (200, {"agent_id": "probe-1", "drop": []})
    after = edge.curl("GET", "/agents/probe-1")[1]
    assert (after["status"], after["load_metrics"]["cpu"], after["health_score"]) == ("inactive", 1.5, 0.5)
    assert edge.curl("GET", "/registry/stats")[1]["by_capability"] == {"weather": 1}
    status, problem = edge.curl("GET", "/agents/probe-1/tasks")
    assert status == 409
    assert "without services" in problem["detail"]
    assert edge.curl("DELETE", "/agents/probe-1")[0] == 204
    assert edge.curl("GET", "/agents/probe-1")[1]["lifecycle"] == "gone"
    assert edge.curl("POST", "/agents/probe-1/heartbeat", {})[0] == 404
    assert edge.curl("GET", "/agents/capability/weather")[1]["agents"] == []


def test_agents_are_listed_a_page_at_a_time(edge: Edge) -> None:
    for number in range(3):
        edge.register(f"paged-{number}", tags=["paged"])
    _, first = edge.curl("POST", "/agents/discover", {"tags": ["paged"], "limit": 2})
    _, second = edge.curl("POST", "/agents/discover", {"tags": ["paged"], "limit": 2, "after": first["next"]})
    assert [agent["agent_id"] for agent in first["agents"]] == ["paged-0", "paged-1"]
    assert [agent["agent_id"] for agent in second["agents"]] == ["paged-2"]
    assert {"coordinator-1", "distributor-1"} <= {a["agent_id"] for a in edge.curl("GET", "/agents")[1]["agents"]}


def test_an_agent_with_curl_takes_a_task_and_returns_its_result(edge: Edge) -> None:
    edge.register("shell-1", services=["upper"], capabilities=["shell"])
    task_id = edge.client.submit(Task(task_type="upper", payload={"text": "to be"}, capabilities=["shell"]))
    given = edge.take("shell-1")
    assert (given["task_id"], given["attempt"], given["payload"]) == (task_id, 1, {"text": "to be"})
    assert edge.take("shell-1") == {**given, "time_left_s": pytest.approx(given["time_left_s"], abs=20)}
    assert edge.curl("GET", f"/agents/shell-1/tasks?holding={task_id}")[1] == {"tasks": []}
    path = f"/agents/shell-1/tasks/{task_id}"
    assert edge.curl("POST", f"{path}/progress", {"attempt": 1, "fraction": 0.5, "note": "half"})[0] == 204
    wrong = {"attempt": 2, "status": "completed", "result": "no"}
    status, problem = edge.curl("POST", f"{path}/result", wrong)
    assert status == 409
    assert "attempt 2" in problem["detail"]
    for _ in range(2):  # the first response may have been lost
        result = {"attempt": 1, "status": "completed", "result": {"text": "TO BE"}}
        assert edge.curl("POST", f"{path}/result", result)[0] == 204
    assert edge.client.result(task_id, 20).result == {"text": "TO BE"}
    assert edge.curl("DELETE", "/agents/shell-1")[0] == 204


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq on the PATH")
def test_the_agent_of_the_page_works_as_it_stands_there_and_joins_the_next_gateway(edge: Edge) -> None:
    script = re.search(r"^```sh\n(G=.*?)^```", (ROOT / "docs/registry.md").read_text(), re.MULTILINE | re.DOTALL)
    assert script
    shell = subprocess.Popen(
        ["bash", "-c", script[1]], env={**os.environ, "GATEWAY": edge.url}, stdout=subprocess.DEVNULL, process_group=0
    )
    try:
        for text in ("to be", "or not"):
            task_id = edge.client.submit(Task(task_type="upper", payload=text))
            assert edge.client.result(task_id, 30).result == text.upper()
            edge.curl("DELETE", "/agents/shell-1")  # it registers again
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        edge.curl("DELETE", "/agents/shell-1")


def test_a_submitted_task_that_nobody_can_run_is_warned_of(edge: Edge) -> None:
    edge.register("shell-3", services=["known"])
    for task_type, warned in (("known", False), ("unknown", True)):
        status, told = edge.curl("POST", "/tasks/submit", {"task_type": task_type})
        assert (status, "warnings" in told) == (202, warned)
    edge.curl("DELETE", "/agents/shell-3")


def test_a_failure_is_tried_again_and_one_that_is_final_is_not(edge: Edge) -> None:
    edge.register("shell-2", services=["fragile"])
    task_id = edge.client.submit(Task(task_type="fragile", payload=None, backoff_s=0))
    failed = {"attempt": 1, "status": "failed", "error": {"type": "Busy", "message": "try again"}}
    assert edge.take("shell-2")["attempt"] == 1
    assert edge.curl("POST", f"/agents/shell-2/tasks/{task_id}/result", failed)[0] == 204
    assert edge.take("shell-2")["attempt"] == 2
    final = {"attempt": 2, "status": "failed", "error": {"type": "Broken", "retryable": False}}
    assert edge.curl("POST", f"/agents/shell-2/tasks/{task_id}/result", final)[0] == 204
    ended = edge.client.result(task_id, 20)
    assert (ended.status, [error.type for error in ended.errors]) == ("failed", ["Busy", "Broken"])


def test_what_a_silent_agent_had_goes_to_others_and_its_late_answer_is_refused(edge: Edge) -> None:
    edge.register("silent", services=["report"], lease_s=1)
    task_id = edge.client.submit(Task(task_type="report", payload=None, backoff_s=0))
    assert edge.take("silent")["attempt"] == 1
    edge.register("heir", services=["report"])
    assert edge.take("heir")["attempt"] == 2
    answer = {"attempt": 1, "status": "completed", "result": "late"}
    assert edge.curl("POST", f"/agents/silent/tasks/{task_id}/result", answer)[0] == 404
    edge.register("silent", services=["report"])
    assert edge.curl("POST", f"/agents/silent/tasks/{task_id}/result", answer)[0] == 409
    answer = {"attempt": 2, "status": "completed", "result": "in time"}
    assert edge.curl("POST", f"/agents/heir/tasks/{task_id}/result", answer)[0] == 204
    ended = edge.client.result(task_id, 20)
    assert (ended.result, [error.type for error in ended.errors]) == ("in time", ["agent_lost"])


def test_a_heartbeat_tells_an_agent_what_to_drop(edge: Edge) -> None:
    edge.register("told", services=["cancelled"])
    task_id = edge.client.submit(Task(task_type="cancelled", payload=None))
    edge.take("told")
    beat = {"holding": [task_id]}
    assert edge.curl("POST", "/agents/told/heartbeat", beat)[1]["drop"] == []
    edge.client.cancel(task_id)
    until(lambda: edge.curl("POST", "/agents/told/heartbeat", beat)[1]["drop"] == [task_id], "it is to be dropped", 20)


def test_a_task_survives_the_death_of_the_gateway_that_has_given_it_out(edge: Edge) -> None:
    doomed, url = edge.start()
    edge.register("nomad", services=["survive"], url=url)
    assert edge.curl("POST", "/agents/nomad/heartbeat", {})[0] == 409  # at the gateway where it has not registered
    task_id = edge.client.submit(Task(task_type="survive", payload=7, backoff_s=0))
    assert edge.take("nomad", url=url)["attempt"] == 1
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    edge.register("nomad", services=["survive"])
    given = edge.take("nomad")
    assert (given["task_id"], given["attempt"]) == (task_id, 2)
    stale = {"attempt": 1, "status": "completed", "result": "of the first"}
    assert edge.curl("POST", f"/agents/nomad/tasks/{task_id}/result", stale)[0] == 409
    answer = {"attempt": 2, "status": "completed", "result": given["payload"] * 6}
    assert edge.curl("POST", f"/agents/nomad/tasks/{task_id}/result", answer)[0] == 204
    ended = edge.client.result(task_id, 20)
    assert (ended.status, ended.result, ended.attempt) == ("completed", 42, 2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "agent_id: Field required"),
        ({"agent_id": "a b"}, "agent_id"),
        ({"agent_id": "a", "agent_type": "robot"}, "agent_type"),
        ({"agent_id": "a", "colour": "red"}, "there is no such field"),
        ({"agent_id": "a", "tags": ["two\nlines"]}, "tags: takes"),
        ({"agent_id": "a", "lease_s": 0.1}, "lease_s"),
        ({"agent_id": "a", "services": ["agents.embed.0"]}, "services: 'agents.embed.0' is a name of our own workers"),
        ({"agent_id": "a", "capabilities": ["store.index:0"]}, "capabilities: 'store.index:0' is a name of our own"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_the_field(edge: Edge, body: Any, said: str) -> None:
    response = httpx.post(f"{edge.url}/agents/register", json=body)
    assert response.status_code == 422
    assert said in response.json()["detail"]
