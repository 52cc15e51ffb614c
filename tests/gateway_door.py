"""A hierarchy behind two gateways, over real processes, for tests that use it as programs do."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from tests.executor_bench import INTEGRATION
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import ForkedTiers
from tests.waiting import until

__all__ = ["EMPTY", "KEY", "WORKERS", "Door", "data_of", "open_door", "start_worker"]

KEY = "a key of the tests"
KEYS = ",".join(
    f"{name}:{role}:{hashlib.sha256(key.encode()).hexdigest()}"
    for name, role, key in (("ada", "operator", KEY), ("eve", "viewer", "see"))
)
EMPTY: Any = {"done": []}
WORKERS = ("worker-1", "worker-2")
#: The graphs of `gateway_user_graphs.py`.
GRAPHS = 8


def data_of(told: list[Any], event: str) -> list[Any]:
    """What the events of that name say."""
    return [part.data for part in told if part.event == event]


def start_worker(tiers: ForkedTiers, name: str) -> None:
    code = str(INTEGRATION / "gateway_user_graphs.py")
    tiers.start("worker", name, "--distributor", "distributor-1", "--import", code)


@dataclass
class Door:
    """A hierarchy with two gateways, of which the second wants a key."""

    tiers: ForkedTiers
    urls: tuple[str, str]
    folder: Path


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def open_door(folder: Path, processes: Processes) -> Iterator[Door]:
    """The hierarchy, once all its graphs are there."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(bundled_server()))
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        tiers = stack.enter_context(
            ForkedTiers(processes, redis, folder, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1")
        )
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        for name in WORKERS:
            start_worker(tiers, name)
        ports = free_port(), free_port()
        for port, keys in zip(ports, ("", KEYS), strict=True):
            environment = {**tiers._environment, "GATEWAY_KEYS": keys}
            log = stack.enter_context((folder / f"gateway-{port}.log").open("wb"))
            gateway = subprocess.Popen(
                [sys.executable, "-m", "core.cli", "gateway", "--port", f"{port}"],
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
            stack.callback(gateway.wait)
            stack.callback(gateway.kill)
        urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
        for url in urls:
            until(partial(answers, url), "the gateway answers", 100)
        until(
            lambda: len(httpx.post(f"{urls[0]}/assistants/search", json={}).json()) >= GRAPHS,
            "the graphs are there",
            60,
        )
        yield Door(tiers, (urls[0], urls[1]), folder)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", verify=False).status_code == 200  # certificates take long to load
    except httpx.TransportError:
        return False
