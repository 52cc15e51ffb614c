"""Where secrets must not be: logs, arguments, the environment of user code, Redis, what the command prints."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.agent_run import RunOptions
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.errors import PeerError
from core.roles import Address, Role
from core.signing import KeyRing
from core.tasks import Task
from tests.faults.keyspace import READS
from tests.redis_server import RedisServer
from tests.tiers import Tiers
from tests.waiting import until

#: What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

ROOT_SECRET = "the root of all keys of this very test"
PREVIOUS_SECRET = "what was the root of all keys before it"
K, D = Address(Role.COORDINATOR, "k"), Address(Role.DISTRIBUTOR, "d")
W1, W2, C = Address(Role.WORKER, "w1"), Address(Role.WORKER, "w2"), Address(Role.CLIENT, "c")
CHAINS = [(K,), (K, D), (K, D, W1), (K, D, W2), (K, C)]

USER_CODE = """
import os, sys, time
from typing import TypedDict
from langgraph.graph import START, StateGraph
from worker import Context, agent, task

class State(TypedDict):
    said: str

@agent("tells")
def tells() -> StateGraph:
    return StateGraph(State).add_node("say", lambda state: {"said": "hello"}).add_edge(START, "say")

@task("surroundings")
def surroundings() -> dict:
    return {"environment": dict(os.environ), "arguments": sys.orig_argv}

@task("fail", retries=0)
def fail(payload: str) -> None:
    print("about to fail with", payload)
    raise RuntimeError(payload)

@task("linger", timeout=60)
def linger(ctx: Context) -> None:
    while not ctx.cancelled:
        time.sleep(0.02)
"""


def keys() -> Iterator[bytes]:
    """Every key that can be derived from either root, and both roots."""
    for root in (ROOT_SECRET.encode(), PREVIOUS_SECRET.encode()):
        yield root
        for chain in CHAINS:
            ring = KeyRing.from_secret(root, chain)
            yield from ring._own.values()
            for other in CHAINS:
                if other[:-1] == chain or chain[:-1] == other:
                    ring.sign(b"", other[-1])
            yield from ring._links.values()
            for run_key in ring.run_keys("told"):
                yield from (run_key.secret, run_key.of_attempt(1).secret)


def needles(password: str) -> list[bytes]:
    """Everything to look for, in every spelling it might have."""
    found: list[bytes] = []
    for secret in (*keys(), password.encode()):
        plain = base64.b64encode(secret).rstrip(b"=")
        url_safe = base64.urlsafe_b64encode(secret).rstrip(b"=")
        found += [secret, secret.hex().encode(), secret.hex().upper().encode(), plain, url_safe]
        found += [repr(secret)[2:-1].encode()]
    return found


def everything_in(server: Any) -> bytes:
    found: list[bytes] = []
    for key in server.keys("*"):
        kind = server.type(key)
        if kind == b"stream":
            value: Any = server.xrange(key)
        elif kind == b"zset":
            value = server.zrange(key, 0, -1)
        else:
            value = server.execute_command(READS[kind], key)
        found += [key, *_parts(value)]
    return b"\0".join(found)


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from _parts(list(value.items()))
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _parts(part)


@pytest.mark.matrix(54)
def test_no_secret_is_in_a_log_an_argument_the_environment_of_user_code_redis_or_what_the_command_prints(
    redis_server: RedisServer,
    redis_config: RedisConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: Callable[[str], str],
) -> None:
    """After a run with all tiers, a task that failed, messages that were rejected and a client that was not let in."""
    (tmp_path / "mine.py").write_text(USER_CODE)
    own_key = KeyRing.from_secret(ROOT_SECRET.encode(), CHAINS[3], PREVIOUS_SECRET.encode()).export()
    common = {"LOG_LEVEL": "DEBUG"}
    roots = {"A2A_TOKEN_SECRET": ROOT_SECRET, "A2A_PREVIOUS_SECRET": PREVIOUS_SECRET}
    worker = ("worker", "--coordinator", "k", "--distributor", "d", "--import", "./mine.py")
    with (
        Tiers(redis_config, tmp_path, **common, **roots) as tiers,
        Tiers(redis_config, tmp_path, **common, A2A_TOKEN_SECRET="", A2A_AGENT_KEY=own_key) as robbed,
    ):
        tiers.start("coordinator", "k")
        tiers.start("distributor", "d", "--coordinator", "k")
        tiers.start(worker[0], "w1", *worker[1:])
        robbed.start(worker[0], "w2", *worker[1:])
        a2a = A2AConfig(agent_id="c", token_secret=ROOT_SECRET, previous_secret=PREVIOUS_SECRET)
        with AgentClient(redis_config, a2a, "k", "c") as client:
            seen = [client.value(client.submit(Task(task_type="surroundings"), 90), 90) for _ in range(8)]
            failed = client.result(client.submit(Task(task_type="fail", payload="a failure")), 60)
            run = RunOptions(stream=["updates"])
            client.submit(Task(task_id="told", task_type="tells", payload={"said": ""}, run=run))
            assert [next(iter(chunk.data)) for chunk in client.stream("told")] == ["say", "status"]
            until(lambda: tiers.log("d").count('"action": "worker_joined"') == 2, "both workers are there", 60)
            lingering = client.submit_many([Task(task_type="linger") for _ in range(8)])
            agents = {name: psutil.Process(hierarchy.pid(name)) for hierarchy, name in
                      [(tiers, "k"), (tiers, "d"), (tiers, "w1"), (robbed, "w2")]}  # fmt: skip
            user_code = until(lambda: _children(agents), "user code runs in both workers", 60)
            arguments = [part for process in (*agents.values(), *user_code) for part in process.cmdline()]
            environments = [f"{name}={value}" for process in user_code for name, value in process.environ().items()]
            for task_id in lingering:
                client.cancel(task_id)
            stranger = A2AConfig(agent_id="c2", token_secret="a secret that nobody else has here")
            with AgentClient(redis_config, stranger, "k", "c2") as other, pytest.raises(PeerError):
                other.submit(Task(task_type="fail"), 30)
        tiers.terminate("d")
        assert tiers.exit_code("d") == 0
        for name, value in {**redis_server.environment, **roots, "COORDINATOR_ID": "k"}.items():
            monkeypatch.setenv(name, value)
        printed = [
            command_line(command)
            for command in (
                "status --json", "config show", "config show --json", "doctor", "doctor --json", "tasks list --json",
                f"tasks show {failed.task_id} --json", "state show d --json", "state history d --json",
            )
        ]  # fmt: skip
        named = [(tiers, "k"), (tiers, "d"), (tiers, "w1"), (robbed, "w2")]
        logs = [hierarchy.log_file(name).read_bytes() for hierarchy, name in named]

    with redis_server.connect() as server:
        stored = everything_in(server)
    places = {
        "a log": b"\0".join(logs),
        "an argument": "\0".join(arguments).encode(),
        "the environment of user code": "\0".join([*environments, repr(seen)]).encode(),
        "Redis": stored,
        "what the command prints": "\0".join(printed).encode(),
    }
    for place, text in places.items():
        assert len(text) > 100, f"there is nothing in {place}"
        assert not [needle for needle in needles(redis_server.password) if needle in text], f"a secret is in {place}"
    assert failed.status == "failed"
    assert b"message rejected" in places["a log"]


def _children(agents: dict[str, psutil.Process]) -> list[psutil.Process]:
    """All processes below the workers, once there are children of forkservers in both."""
    below = {name: agents[name].children(recursive=True) for name in ("w1", "w2")}
    return [process for many in below.values() for process in many] if min(map(len, below.values())) >= 2 else []
