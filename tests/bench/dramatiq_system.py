"""dramatiq as it is meant to be run: two worker processes of 32 threads, results in Redis."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import psutil

from tests.bench.processes import ProcessGroup
from tests.bench.workload import check, payload
from tests.redis_server import RedisServer

__all__ = ["Dramatiq"]

ACTOR = "tests.bench.dramatiq_actor"
RESULT_TIMEOUT_MS = 60_000


class Dramatiq:
    name = "dramatiq"

    def __init__(self, server: RedisServer) -> None:
        os.environ |= server.environment  # the actor's module reads it, here as in the workers
        self._actor = _fresh(ACTOR)
        self._group = ProcessGroup(server.directory, server.environment)
        self._group.start("workers", "-m", "dramatiq", ACTOR, "--processes", "2", "--threads", "32")

    @property
    def processes(self) -> dict[str, psutil.Process]:
        return self._group.processes

    def run(self, count: int) -> None:
        self._group.complain_if_one_ended()
        messages = [self._actor.noop.send(payload(number)) for number in range(count)]
        check((message.get_result(block=True, timeout=RESULT_TIMEOUT_MS) for message in messages), count)

    def close(self) -> None:
        self._group.close()
        self._actor.broker.client.close()


def _fresh(name: str) -> ModuleType:
    """The module with the server of this run; it connects when it is imported."""
    module = importlib.import_module(name)
    return importlib.reload(module)
