"""Agents outside the hierarchy take their tokens from A2A_JWT: in Python, JavaScript and a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from core.chaos.processes import Processes
from tests.executor_bench import USER_CODE
from tests.gateways import Gateways, gateways_of
from tests.integration.test_gateway_tasks import problem
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SECRETS = {"old": "an old secret of 32 bytes or more", "new": "a new secret of 32 bytes or more!"}
KEY_SET = {
    "keys": [
        {"kty": "oct", "kid": kid, "k": jwt.utils.base64url_encode(secret.encode()).decode()}
        for kid, secret in SECRETS.items()
    ]
}
STRICT = {
    "GATEWAY_JWT_KEYS": json.dumps(KEY_SET), "GATEWAY_JWT_ALGORITHM": "HS256", "GATEWAY_JWT_ISSUER": "tests",
    "GATEWAY_JWT_LEEWAY_S": "0",
}  # fmt: skip


def token(sub: str, role: str = "agent", *, kid: str = "new", for_s: float = 600, aud: str = "agent-system") -> str:
    claims = {"sub": sub, "role": role, "aud": aud, "iss": "tests", "exp": time.time() + for_s}
    return jwt.encode(claims, SECRETS[kid], "HS256", headers={"kid": kid})


@dataclass
class Stage:
    url: str
    folder: Path
    gateways: Gateways

    def asked(self, bearer: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {bearer}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=40, **more)

    def upper(self, text: str) -> Any:
        """What an agent makes of a text."""
        ada = token("ada", "operator")
        answer = self.asked(ada, "POST", "/tasks/submit", json={"task_type": "upper", "payload": text})
        [task_id] = answer.json()["task_ids"]
        return self.asked(ada, "GET", f"/tasks/{task_id}/wait?timeout_s=30").json()["result"]

    @contextmanager
    def running(self, *command: str, **environment: str) -> Iterator[Path]:
        """The agent as a process of a group of its own; gives the file with what it says."""
        said = self.folder / "agent.log"
        with said.open("wb") as log:
            process = subprocess.Popen(
                command, env={**os.environ, "GATEWAY": self.url, **environment}, stdout=subprocess.DEVNULL, stderr=log,
                process_group=0,
            )  # fmt: skip
            try:
                yield said
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("outside")
    with gateways_of(processes, folder, USER_CODE) as gateways:
        yield Stage(gateways.start(**STRICT), folder, gateways)


def test_the_agent_in_python_works_with_its_token_and_takes_a_new_one_while_it_runs(stage: Stage) -> None:
    file = stage.folder / "token"
    file.write_text(token("upper-py", kid="old", for_s=3))
    agent = str(ROOT / "examples/outside_agent/agent.py")
    with stage.running(sys.executable, agent, "upper-py", stage.url, A2A_JWT_FILE=str(file)) as said:
        assert stage.upper("to be") == "TO BE"
        until(lambda: "has expired" in said.read_text(), "its token has expired", 60)
        file.write_text(token("upper-py", kid="new"))
        assert stage.upper("or not") == "OR NOT"
    stage.asked(token("upper-py"), "DELETE", "/agents/upper-py")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")
def test_the_agent_in_javascript_registers_takes_a_task_and_returns_its_result(stage: Stage) -> None:
    agent = str(ROOT / "examples/outside_agent/agent.mjs")
    with stage.running("node", agent, "upper-js", stage.url, A2A_JWT=token("upper-js")):
        assert stage.upper("to be") == "TO BE"
    stage.asked(token("upper-js"), "DELETE", "/agents/upper-js")


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq on the PATH")
def test_the_agent_of_the_page_works_with_its_token(stage: Stage) -> None:
    script = re.search(r"^```sh\n(G=.*?)^```", (ROOT / "docs/registry.md").read_text(), re.MULTILINE | re.DOTALL)
    assert script
    with stage.running("bash", "-c", script[1], A2A_JWT=token("shell-1")):
        assert stage.upper("to be") == "TO BE"
    stage.asked(token("shell-1"), "DELETE", "/agents/shell-1")


def test_a_token_lets_its_agent_speak_for_itself_alone(stage: Stage) -> None:
    wren, owl = token("wren"), token("owl")
    assert stage.asked(wren, "POST", "/agents/register", json={"agent_id": "wren", "services": ["sing"]}).is_success
    attempts: list[tuple[str, str, Any]] = [
        ("POST", "/agents/register", {"agent_id": "wren", "services": ["sing"]}),
        ("GET", "/agents/wren/tasks", None),
        ("POST", "/agents/wren/tasks/t/result", {"attempt": 1, "status": "completed", "result": 1}),
        ("POST", "/agents/wren/tasks/t/progress", {"attempt": 1, "fraction": 0.5}),
        ("POST", "/agents/wren/heartbeat", {}),
        ("PUT", "/agents/wren/status", {"status": "inactive"}),
        ("DELETE", "/agents/wren", None),
        ("GET", "/agents/wren/messages", None),
        ("POST", "/agents/wren/messages/ack", {"message_ids": ["m"]}),
        ("PUT", "/agents/wren/peers/owl", {}),
        ("DELETE", "/agents/wren/peers/owl", None),
        ("GET", "/agents/wren/peers", None),
        ("POST", "/messages/send", {"sender_id": "wren", "protocol": "broadcast"}),
    ]
    for method, path, body in attempts:
        more = {} if body is None else {"json": body}
        assert "cannot act as 'wren'" in problem(stage.asked(owl, method, path, **more), 403), path
    assert stage.asked(owl, "GET", "/agents/wren").json()["status"] == "active"
    assert stage.asked(wren, "DELETE", "/agents/wren").status_code == 204


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"for_s": -1}, "has expired"),
        ({"aud": "elsewhere"}, "`aud` or `iss`"),
        ({"role": "boss"}, "`role` is none of"),
    ],
)
def test_a_token_that_is_not_right_is_refused_with_the_reason(stage: Stage, given: dict[str, Any], said: str) -> None:
    assert said in problem(stage.asked(token("wren", **given), "GET", "/agents"), 401)
