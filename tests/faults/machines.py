"""A hierarchy in which nobody but the first coordinator has the root secret: each agent has a key, and a Redis user, of
its own, as `agents key` and `agents acl` print them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.redis_backend.keys import AgentKeys, CellKeys, CoordinatorKeys
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = ["COORDINATOR", "ROOT", "Machines"]

#: In the middle of a rotation, when there is most to do.
ROOT = {
    "A2A_TOKEN_SECRET": "the root secret, on one machine only",
    "A2A_PREVIOUS_SECRET": "the root secret that there was before",
}
COORDINATOR = "k"
TIMINGS = {
    "AGENT_LEASE_S": "1.5",
    "AGENT_HEARTBEAT_S": "0.2",
    "AGENT_FAILURE_TIMEOUT_S": "1.2",
    "LOG_FORMAT": "json",
    "AGENT_EVENTS": "all",
}
USER_CODE = """
import asyncio, os
from pathlib import Path
from core import Task
from worker import Context, task

@task("step", timeout=60, retries=50)
async def step(payload: dict, ctx: Context) -> int:
    ctx.progress(0.5, note="half of it")
    await asyncio.sleep(payload["ms"] / 1000)
    return payload["number"]

@task("held", timeout=60, retries=50)
async def held(payload: str) -> None:
    Path(f"{payload}.{os.getpid()}").touch()
    while not Path(f"{payload}.go").exists():
        await asyncio.sleep(0.01)

@task("flaky", retries=2)
async def flaky(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise RuntimeError("only the first time")
    return ctx.attempt

@task("tree", retries=50)
async def tree(ctx: Context) -> object:
    return ctx.spawn([Task(task_type="step", payload={"ms": 1, "number": n}) for n in range(3)], then="sum")

@task("sum", retries=50)
async def total(ctx: Context) -> int:
    return sum(ctx.results())

@task("linger", timeout=60)
async def linger() -> None:
    await asyncio.sleep(50)

@task("fail", retries=0)
async def fail() -> None:
    raise RuntimeError("always")
"""


class Machines:
    """Agents by name: the id, with a `b` behind it for the one that waits to take its place."""

    def __init__(
        self,
        server: RedisServer,
        processes: Processes,
        directory: Path,
        command_line: Callable[[str], str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """`command_line` runs `agents ...` where the root secret is, as the server's administrator."""
        server.clean()
        self.server = server
        self.processes = processes
        self.directory = directory
        (directory / "mine.py").write_text(USER_CODE)
        processes.directory = directory
        processes.environment = {**os.environ, **TIMINGS}
        self.agents = command_line
        here = {**server.environment, **ROOT, "COORDINATOR_ID": COORDINATOR}
        for name, value in here.items():
            monkeypatch.setenv(name, value)

    # ---- what each is given ----

    def key(self, role: str, agent_id: str, distributor: str = "") -> str:
        """Its own key."""
        return self.agents(f"key {role} {agent_id}{_below(distributor)}").splitlines()[-1]

    def user(self, role: str, agent_id: str, distributor: str = "") -> dict[str, str]:
        """The variables with which it enters as a user of its own; the user is made of exactly what is printed."""
        password = self.directory / f"{role}-{agent_id}.password"
        if not password.exists():
            password.write_text(secrets.token_hex(16))
        printed = self.agents(f"acl {role} {agent_id}{_below(distributor)} --password-file {password}")
        [line] = [line for line in printed.splitlines() if line.startswith("ACL SETUSER ")]
        assert password.read_text() not in printed
        with self.server.connect() as admin:
            admin.execute_command(*line.split())
        return {
            "REDIS_URL": self.server.url,
            "REDIS_MODE": "external",
            "REDIS_USERNAME": line.split()[2],
            "REDIS_PASSWORD": password.read_text(),
        }

    # ---- agents ----

    def start(self, name: str, distributor: str = "") -> None:
        """`k...` is a coordinator, `d...` a distributor, `w...` a worker, which has a distributor."""
        agent_id = name.removesuffix("b")
        role = {"k": "coordinator", "d": "distributor", "w": "worker"}[name[0]]
        flags = [] if role == "coordinator" else ["--coordinator", COORDINATOR]
        flags += ["--distributor", distributor, "--import", "./mine.py"] if role == "worker" else []
        flags += ["--standby"] if name != agent_id else []
        own = {**dict.fromkeys(ROOT, ""), "A2A_AGENT_KEY": self.key(role, agent_id, distributor)}
        secret = ROOT if name == COORDINATOR else own
        user = self.user(role, agent_id, distributor)
        self.processes.start(role, agent_id, *flags, name=name, environment={**user, **secret})

    def acts(self, name: str) -> None:
        """Returns when this very process acts for its agent."""
        lease, mark = self.keys(name.removesuffix("b")).lease, f"/{self.processes.pid(name)}/".encode()
        with self.server.connect() as admin:
            until(lambda: mark in (admin.get(lease) or b""), f"{name} acts")

    def keys(self, agent_id: str, distributor: str = "") -> AgentKeys:
        if agent_id == COORDINATOR:
            return CoordinatorKeys(agent_id).agent
        return CellKeys(distributor).worker(agent_id) if distributor else CellKeys(agent_id).agent(COORDINATOR)

    def client(self, client_id: str) -> AgentClient:
        """With a key and a user of its own."""
        user = self.user("client", client_id)
        redis = RedisConfig(
            url=user["REDIS_URL"], username=user["REDIS_USERNAME"], password=user["REDIS_PASSWORD"], mode="external"
        )
        return AgentClient(redis, A2ASecrets(agent_key=self.key("client", client_id)), COORDINATOR, client_id)

    def said(self, name: str, action: str) -> int:
        """How often the processes of this name have logged that action."""
        return self.processes.log(name).count(f'"action": "{action}"')

    def heard(self, distributor: str, *workers: str) -> None:
        """Returns when the distributor has heard of these."""
        for worker in workers:
            until(lambda worker=worker: f'"{worker}"' in self.processes.log(distributor), f"{worker} joins")  # type: ignore[misc]

    def close(self) -> None:
        self.processes.forget_all()
        with self.server.connect() as admin:
            users = [name for name in admin.acl_users() if name not in ("default", b"default")]
            if users:
                admin.acl_deluser(*users)


def _below(distributor: str) -> str:
    return f" --distributor {distributor}" if distributor else ""
