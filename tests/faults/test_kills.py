"""Whoever dies, wherever: SIGKILL at every point of every tier's turn.

Who waits on the same machine sees that a process is dead, and does not wait for its lease to run out; where that is not
to be seen, lines 8 and 18 hold the same bound.
"""

from __future__ import annotations

import time

import pytest

from core.agents import prefetch_window
from core.chaos.work import SHORT_MS
from tests.faults.stage import CONCURRENCY, COORDINATOR, FAILURE_TIMEOUT_S, LEASE_S, Stage
from tests.waiting import until

#: The points of a turn, and which hit of them kills: one in the middle of the load, or of the idleness after it.
TURN = ("lease:1", "read:5", "verify:5", "graph:6", "watch:6", "before-exec:6", "exec-sent:6", "exec:6", "renew:2")
#: What a worker can have begun and told nobody of: a third of what it is handed ahead is far more than that.
PREFETCH = prefetch_window(CONCURRENCY, 3 * SHORT_MS)
#: What a busy machine adds.
SLACK_S = 0.5


def strike(stage: Stage, victim: str, point: str, *successor: str) -> int:
    """A process at work is replaced by one that dies at `point`, under load; its successor, a standby or its next
    start, acts. Returns how many tasks were submitted meanwhile: 120 and until it was dead; the matrix has 300."""
    stage.processes.kill_all(victim, *successor)
    stage.start(victim, failpoints=f"{point}:kill")
    until(lambda: stage.acts(victim) or not stage.processes.alive(victim), f"{victim} acts")
    if successor:
        stage.start(*successor)
    count = stage.load(lambda: not stage.processes.alive(victim))
    assert stage.processes.wait(victim) == -9, stage.processes.log(victim)
    if not successor:
        stage.start(victim)
    stage.ready(*(successor or (victim,)))
    return count


@pytest.mark.matrix(1)
@pytest.mark.parametrize("point", [*TURN, "spawn:9", "ran:9"])
def test_a_worker_that_dies_anywhere_loses_nothing_and_repeats_no_more_than_it_had(
    hierarchy: Stage, point: str
) -> None:
    before = hierarchy.executions()

    count = strike(hierarchy, "worker-1", point)

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert count <= verdict.executed - before <= count + PREFETCH


@pytest.mark.matrix(1)
def test_the_tasks_of_a_worker_that_does_not_come_back_begin_elsewhere_a_second_after_the_failure_timeout(
    hierarchy: Stage,
) -> None:
    """The others have room by then: what is waited for is that its death is known."""
    pid = hierarchy.processes.pid("worker-1")

    def tasks(kind: str) -> set[str]:
        return {entry.task_id for entry in hierarchy.entries() if (entry.kind, entry.pid) == (kind, pid)}

    hierarchy.submit(4 * CONCURRENCY, ms=1500)
    until(lambda: tasks("began") - tasks("ended"), "it is at work")
    hierarchy.processes.kill("worker-1")
    killed_ns = time.monotonic_ns()
    lost = tasks("began") - tasks("ended")
    hierarchy.collect()

    began_ns = {entry.task_id: entry.at_ns for entry in hierarchy.entries() if entry.kind == "began"}  # the last time
    hierarchy.start("worker-1")
    hierarchy.ready()
    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert all(0 < began_ns[task_id] - killed_ns <= (FAILURE_TIMEOUT_S + 1 + SLACK_S) * 1e9 for task_id in lost)


@pytest.mark.matrix(2)
@pytest.mark.parametrize("point", TURN)
def test_a_distributor_that_dies_anywhere_is_followed_by_its_standby(hierarchy: Stage, point: str) -> None:
    before = hierarchy.executions()

    count = strike(hierarchy, "distributor-1", point, "distributor-1b")

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert count <= verdict.executed - before <= count + PREFETCH
    assert hierarchy.replaced_after("distributor-1", verdict) <= LEASE_S + 1


@pytest.mark.matrix(3)
@pytest.mark.parametrize("point", TURN)
def test_a_coordinator_that_dies_anywhere_is_followed_by_its_standby(hierarchy: Stage, point: str) -> None:
    before = hierarchy.executions()

    count = strike(hierarchy, COORDINATOR, point, f"{COORDINATOR}b")

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert count <= verdict.executed - before <= count + PREFETCH
    assert hierarchy.replaced_after(COORDINATOR, verdict) <= LEASE_S + 1
