"""A hierarchy with gateways in front of it, as processes, for the tests that speak HTTP to it."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import ForkedTiers
from tests.waiting import until

__all__ = ["Gateways", "answers", "free_port", "gateways_of", "keys_setting"]


def keys_setting(**keys: str) -> str:
    """GATEWAY_KEYS with a key `NAME-key` for each name, of the role, or role and tenant, that is given."""
    entries = []
    for name, role in keys.items():
        role, _, tenant = role.partition(" ")
        digest = hashlib.sha256(f"{name}-key".encode()).hexdigest()
        entries.append(":".join(filter(None, (name, role, digest, tenant))))
    return ",".join(entries)


class Gateways:
    """Gateways of one hierarchy, by their URLs."""

    def __init__(self, tiers: ForkedTiers, processes: Processes, folder: Path, server: RedisServer) -> None:
        self.tiers, self.folder, self.server = tiers, folder, server
        self.urls: list[str] = []  #: of those that were started, in that order
        self._processes = processes

    def start(self, name: str = "gateway", **environment: str) -> str:
        """Starts one, and returns its URL once it answers. `name`: as whom it submits."""
        [url] = self.start_all(environment, name=name)
        return url

    def start_all(self, *environments: Mapping[str, str], name: str = "gateway") -> list[str]:
        """Starts some at the same time."""
        urls = []
        for environment in environments:
            port = free_port()
            urls.append(f"http://127.0.0.1:{port}")
            self._begin(urls[-1], environment, name)
        for url in urls:
            until(partial(answers, url), "the gateway answers", 100)
        self.urls += urls
        return urls

    def start_again(self, url: str, **environment: str) -> None:
        """Starts one that was killed; returns when it answers."""
        self._begin(url, environment, "gateway")
        until(partial(answers, url), "the gateway answers again", 100)

    def _begin(self, url: str, environment: Mapping[str, str], name: str) -> None:
        self._processes.start(
            "core.gateway", name, "--port", url.rpartition(":")[2], name=url.rpartition("/")[2],
            environment={**self.tiers._environment, **environment},
        )  # fmt: skip

    def kill(self, url: str) -> None:
        """SIGKILL; returns when the process is gone."""
        self._processes.kill(url.rpartition("/")[2])

    def signal(self, url: str, number: int) -> None:
        self._processes.signal(url.rpartition("/")[2], number)

    def exit_code(self, url: str) -> int:
        """Waits for its end."""
        return self._processes.wait(url.rpartition("/")[2])

    def log(self, url: str) -> str:
        return self._processes.log(url.rpartition("/")[2])


@contextmanager
def gateways_of(
    processes: Processes, folder: Path, user_code: str, *, append_only: bool = False, **environment: str
) -> Iterator[Gateways]:
    """A server, a coordinator, a distributor and a worker with that code; gateways are to be started. `append_only`:
    what the server has survives its end."""
    with RedisServer(bundled_server(), append_only=append_only) as server:
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        with ForkedTiers(processes, redis, folder, **environment) as tiers:
            tiers.start("coordinator", "coordinator-1")
            tiers.start("distributor", "distributor-1")
            tiers.start("worker", "worker-1", "--distributor", "distributor-1", "--import", user_code)
            yield Gateways(tiers, processes, folder, server)


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok").status_code == 200
    except httpx.TransportError:
        return False
