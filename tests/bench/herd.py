"""What a thousand heartbeats at once, each second, cost the server and those who work meanwhile."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from core.chaos.processes import Processes
from core.roles import Address, Role
from tests.faults.stage import COORDINATOR, SECRET, Stage
from tests.herd import Herd
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until

__all__ = ["herd"]

SIZE, ROUNDS, ROUND_S, TASKS = 1_000, 5, 1.0, 10


def herd() -> dict[str, float]:
    """Of rounds of one second, with and without the herd: the slowest task of a round in the median; how busy the
    server is; how long it takes to write all heartbeats."""
    with (
        tempfile.TemporaryDirectory(prefix="herd-") as name,
        RedisServer(bundled_server(), append_only=True) as server,
        Processes(Path(name), {}) as processes,
    ):
        stage = Stage(server, processes, Path(name))
        try:
            return _measured(stage)
        finally:
            stage.close()


def _measured(stage: Stage) -> dict[str, float]:
    stage.start()
    stage.ready()
    _round(stage)
    calm = [_round(stage) for _ in range(ROUNDS)]
    beating = Herd(
        SIZE, stage.server, Address(Role.COORDINATOR, COORDINATOR), Address(Role.DISTRIBUTOR, "distributor-1"), SECRET
    )
    beating.beat()
    until(lambda: stage.said("distributor-1", "worker_joined") >= SIZE, "all of the herd are known")
    server, beats_s, beaten = psutil.Process(stage.server.pid), [], []
    used_s, began_s = sum(server.cpu_times()[:2]), time.monotonic()
    for _ in range(ROUNDS):
        beats_s.append(beating.beat())
        beaten.append(_round(stage))
    busy = (sum(server.cpu_times()[:2]) - used_s) / (time.monotonic() - began_s)
    return {
        "calm_slowest_s": _slowest_s(stage, calm),
        "beaten_slowest_s": _slowest_s(stage, beaten),
        "server_busy": busy,
        "beats_written_s": median(beats_s),
    }


def _round(stage: Stage) -> list[str]:
    """The ids of what a steady load was, for one interval between heartbeats."""
    until_s, ids = time.monotonic() + ROUND_S, []
    while time.monotonic() < until_s:
        ids += stage.submit(TASKS)
        stage.collect()
    return ids


def _slowest_s(stage: Stage, rounds: list[list[str]]) -> float:
    """The slowest task of a round, from when it was submitted to when its end was told, in the median of all rounds."""
    at_s = {(entry.kind, entry.task_id): entry.at_ns / 1e9 for entry in stage.entries()}
    return median(max(at_s["result", task_id] - at_s["submitted", task_id] for task_id in ids) for ids in rounds)
