"""A great many agents whose heartbeats come all at once. Line 46 of the matrix, with a tenth of the agents, which beat
ten times as often: 1,000 a second."""

from __future__ import annotations

import time
from statistics import median

import psutil
import pytest
from msgspec import to_builtins

from core.redis_backend.keys import CellKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.status_reports import Beat
from tests.faults.stage import COORDINATOR, SECRET, Stage
from tests.waiting import until

HERD, CALM, BEATS, BEAT_S = 1000, 3, 5, 1.0
#: A herd's heartbeats take an agent of one tier some ten times as long as a task takes on its whole way.
SLACK_S = 0.25


class Herd:
    """Workers of distributor-1 that can do nothing the load asks for, and say so all at once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._parent = Address(Role.DISTRIBUTOR, "distributor-1")
        self._beat = 0
        self._outboxes = {name: self._outbox(name) for name in (f"herd-{number}" for number in range(HERD))}

    def _outbox(self, name: str) -> Outbox:
        chain = (Address(Role.COORDINATOR, COORDINATOR), self._parent, Address(Role.WORKER, name))
        outbox = Outbox(chain, KeyRing.from_secret(SECRET.encode(), chain))
        outbox.incarnation = int(time.time() * 1000)
        return outbox

    def beat(self) -> float:
        """All of them, in one write. Returns how long it took the server, seconds."""
        self._beat += 1
        fields = to_builtins(Beat(beat=self._beat, concurrency=1, capabilities=("task:other",)))
        payload = {**fields, "action": Action.BEAT.value}
        now_ms = int(time.time() * 1000)
        with self._stage.server.connect() as client, client.pipeline(transaction=False) as pipeline:
            for name, outbox in self._outboxes.items():
                packed = outbox.beat(self._parent, payload, self._beat, now_ms)
                pipeline.hset(CellKeys(self._parent.agent_id).heartbeats, name, packed)
            began_s = time.monotonic()
            pipeline.execute()
        return time.monotonic() - began_s


def slowest_s(stage: Stage, rounds: list[list[str]]) -> float:
    """The slowest task of a round, from when it was submitted to when its end was told. The median of all rounds, so
    that it is not somebody else on this machine who is measured."""
    at_s = {(entry.kind, entry.task_id): entry.at_ns / 1e9 for entry in stage.entries()}
    return median(max(at_s["result", task_id] - at_s["submitted", task_id] for task_id in ids) for ids in rounds)


def worked(stage: Stage) -> list[str]:
    """The ids of what a steady load was, ten at a time, for one heartbeat interval."""
    until_s, ids = time.monotonic() + BEAT_S, []
    while time.monotonic() < until_s:
        ids += stage.submit(10)
        stage.collect()
    return ids


@pytest.mark.matrix(46)
def test_a_herd_of_heartbeats_does_not_slow_the_work_down_nor_keep_the_server_busy(stage: Stage) -> None:
    stage.start()
    stage.ready()
    stage.submit(20)
    stage.collect()
    calm = [worked(stage) for _ in range(CALM)]
    herd = Herd(stage)
    server, beats_s, beaten = psutil.Process(stage.server.pid), [], []

    used_s, began_s = sum(server.cpu_times()[:2]), time.monotonic()
    beats_s.append(herd.beat())
    until(lambda: stage.said("distributor-1", "worker_joined") >= HERD, "all of the herd are known")
    for _ in range(BEATS):
        beats_s.append(herd.beat())
        beaten.append(worked(stage))
    used_s, took_s = sum(server.cpu_times()[:2]) - used_s, time.monotonic() - began_s

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert median(beats_s) < 0.1
    assert slowest_s(stage, beaten) < 2 * slowest_s(stage, calm) + SLACK_S
    assert used_s / took_s < 0.1
