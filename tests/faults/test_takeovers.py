"""Who acts when somebody has stopped acting: killed with all others, asked to leave, frozen and thawed, never wanted.

Lines 4, 6, 7, 8, 35 and 36 of the matrix, and those takeovers of lines 2 and 3 in which no standby waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection

import pytest

from core.redis_backend.keys import CellKeys
from tests.faults.stage import COORDINATOR, LEASE_S, Stage, role_of
from tests.faults.test_kills import PREFETCH
from tests.waiting import until

#: Beside what the matrix allows: two cores run a dozen processes, and whoever measures is one of them.
SLACK_S = 2.0
#: The points of a turn at which a process freezes, and at which hit: in the middle of the load, or idle.
OF_WORKERS = ("read:3", "verify:3", "graph:4", "watch:4", "before-exec:4", "exec-sent:4", "exec:4", "spawn:5", "ran:5")
OF_DISTRIBUTORS = ("read:4", "verify:4", "graph:5", "watch:5", "before-exec:5", "exec-sent:5", "exec:5")
OF_COORDINATORS = (
    "lease:1",
    "read:6",
    "verify:6",
    "graph:7",
    "watch:7",
    "before-exec:7",
    "exec-sent:7",
    "exec:7",
    "renew:2",
)
#: On the second server those between the sight of a lease and the write under it, which are the server's affair.
ON_BOTH = ("watch:7", "before-exec:7", "exec-sent:7")


def alone(stage: Stage, name: str, failpoints: str = "") -> None:
    """This process acts for its agent, from now on with these failpoints, and its standby has begun to wait."""
    standby = f"{name}b"
    stage.processes.kill_all(name, standby)
    stage.start(name, failpoints=failpoints)
    stage.ready(name)
    stage.start(standby)


def pause(seconds: float, since_s: float) -> None:
    """How long a fault lasts is part of the fault. `since_s`: wall clock."""
    time.sleep(max(0.0, since_s + seconds - time.time()))


@pytest.mark.matrix(4)
def test_when_all_agents_die_at_once_the_work_goes_on_as_soon_as_they_are_back(hierarchy: Stage) -> None:
    before = hierarchy.executions()
    hierarchy.submit(300, ms=20)
    hierarchy.collect(leave=240)

    hierarchy.processes.kill_all()
    pause(1, time.time())
    began_s = time.monotonic()
    hierarchy.start()
    hierarchy.collect(leave=200)
    took_s = time.monotonic() - began_s

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert 300 <= verdict.executed - before <= 300 + 4 * PREFETCH
    assert took_s <= LEASE_S + 2


@pytest.mark.matrix(6)
@pytest.mark.parametrize("name", ["worker-1", "distributor-1", COORDINATOR])
def test_who_is_asked_to_leave_under_load_hands_over_at_once_and_nothing_runs_twice(
    hierarchy: Stage, name: str
) -> None:
    before = hierarchy.executions()
    alone(hierarchy, name)
    hierarchy.submit(200, ms=5)
    hierarchy.collect(leave=180)

    hierarchy.processes.terminate(name)
    code = hierarchy.processes.wait(name)
    left_s = time.monotonic()
    hierarchy.ready(f"{name}b")
    took_s = time.monotonic() - left_s

    verdict = hierarchy.verdict()
    assert code == 0, hierarchy.processes.log(name)
    assert verdict.clean, verdict
    assert verdict.executed - before == 200
    assert was_given_back(hierarchy, name)
    assert took_s <= 0.3 + SLACK_S


def was_given_back(stage: Stage, name: str) -> bool:
    """Whether the lease that another process took last was deleted, before it ran out, by who had held it."""
    key, holder, ends_s, deleted, found = stage.lease_key(name).encode(), "", 0.0, False, False
    for transaction in stage.transactions():
        deleted = deleted or key in transaction.deleted()
        for written, value, *_ in transaction.named(b"SET"):
            if written == key:
                lease = json.loads(value)
                if lease["process"] != holder:
                    found = deleted and lease["expires_at"] - lease["lease_ms"] / 1000 < ends_s
                holder, ends_s, deleted = lease["process"], lease["expires_at"], False
    return found


def all_froze(stage: Stage, names: Collection[str]) -> Callable[[], bool]:
    """Whether each of these, started once, has come to its point."""
    return lambda: all(stage.said_at(name, "failpoint") for name in names)


def frozen_for(stage: Stage, names: Collection[str], seconds: float) -> dict[str, float]:
    """Lets each go on `seconds` after it froze. Returns when each went on, wall clock."""
    woke_s: dict[str, float] = {}

    def all_woke() -> bool:
        for name in names:
            if name not in woke_s and stage.processes.stopped(name) and time.time() >= stage.struck_at(name) + seconds:
                stage.processes.cont(name)
                woke_s[name] = time.time()
        return len(woke_s) == len(names)

    until(all_woke, f"all of {', '.join(names)} froze")
    return woke_s


def stepped_down_after(stage: Stage, name: str, woke_s: float) -> float:
    """Seconds until it knew that it has lost its lease."""
    until(lambda: stage.said_at(name, "agent_starts_over")[-1:] > [woke_s - 0.01], f"{name} steps down")
    return stage.said_at(name, "agent_starts_over")[-1] - woke_s


@pytest.mark.matrix(7)
def test_workers_that_froze_anywhere_change_nothing_when_they_wake_up(stage: Stage) -> None:
    frozen = {f"worker-{number}": point for number, point in enumerate(OF_WORKERS, 3)}
    stage.start(COORDINATOR, *stage.distributors, "worker-1", "worker-2")
    for name, point in frozen.items():
        stage.start(name, failpoints=f"{point}:stop")
    stage.ready("worker-1", "worker-2")

    count = stage.load(all_froze(stage, frozen), max_tasks=1000)
    frozen_for(stage, frozen, 2 * LEASE_S)
    stage.ready(*frozen)

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert count <= verdict.executed <= count + len(frozen) * PREFETCH
    for name in frozen:  # whatever it wrote after it woke up, it wrote under a new fence
        assert len(verdict.grants[stage.lease_key(name)]) == 2, (name, verdict.grants)


@pytest.mark.matrix(7)
def test_who_freezes_before_it_has_begun_begins_anew_when_another_has_its_lease(hierarchy: Stage) -> None:
    hierarchy.processes.kill_all("worker-1", "worker-1b")
    hierarchy.start("worker-1", failpoints="lease:1:stop", AGENT_STANDBY="true")
    until(lambda: hierarchy.processes.stopped("worker-1"), "it stands still")
    with hierarchy.server.connect() as client:
        client.delete(hierarchy.lease_key("worker-1"))
    hierarchy.start("worker-1b")
    hierarchy.ready("worker-1b")

    hierarchy.processes.cont("worker-1")
    stepped_down_after(hierarchy, "worker-1", time.time())
    hierarchy.processes.kill("worker-1b")

    hierarchy.ready("worker-1")
    hierarchy.submit(20)
    verdict = hierarchy.verdict()
    assert verdict.clean, verdict


@pytest.mark.matrix(8)
def test_distributors_that_froze_anywhere_are_replaced_within_their_lease_and_step_down(stage: Stage) -> None:
    stage.distributors = tuple(f"distributor-{number}" for number in range(1, len(OF_DISTRIBUTORS) + 2))
    frozen = stage.distributors[1:]
    stage.start(COORDINATOR, stage.distributors[0])
    for name, point in zip(frozen, OF_DISTRIBUTORS, strict=True):
        stage.start(name, failpoints=f"{point}:stop")
    until(lambda: all(stage.acts(name) or stage.processes.stopped(name) for name in frozen), "all of them act")
    stage.start(*(f"{name}b" for name in frozen), *(f"worker-{n}" for n in range(1, len(stage.distributors) + 1)))

    stage.load(all_froze(stage, frozen), max_tasks=1000)
    woke_s = frozen_for(stage, frozen, 2 * LEASE_S)
    slowest_s = max(stepped_down_after(stage, name, woke_s[name]) for name in frozen)

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert max(stage.replaced_after(name, verdict) for name in frozen) <= LEASE_S + 1
    assert slowest_s <= LEASE_S / 3 + SLACK_S


@pytest.mark.matrix(8, 25)
@pytest.mark.parametrize(
    ("chaos_server", "point"),
    [
        *(("bundled", point) for point in OF_COORDINATORS),
        *(pytest.param("redis", point, marks=pytest.mark.real_redis) for point in ON_BOTH),
    ],
    indirect=["chaos_server"],
)
def test_a_coordinator_that_freezes_is_replaced_within_its_lease_and_steps_down(hierarchy: Stage, point: str) -> None:
    """At `before-exec` it wakes up with a transaction in its hands that acknowledges what its successor has read."""
    alone(hierarchy, COORDINATOR, f"{point}:stop")
    hierarchy.load(min_tasks=60)
    woke_s = frozen_for(hierarchy, [COORDINATOR], 2 * LEASE_S)
    took_s = stepped_down_after(hierarchy, COORDINATOR, woke_s[COORDINATOR])

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert hierarchy.replaced_after(COORDINATOR, verdict) <= LEASE_S + 1
    assert took_s <= LEASE_S / 3 + SLACK_S


@pytest.mark.matrix(2, 3)
@pytest.mark.parametrize("point", ["takeover:1", "taken:1"])
def test_a_coordinator_that_dies_while_it_empties_a_lost_cell_is_followed_by_one_that_does(
    hierarchy: Stage, point: str
) -> None:
    before, submitted = hierarchy.executions(), list[str]()
    alone(hierarchy, COORDINATOR, f"{point}:kill")
    with hierarchy.server.connect() as client:

        def busy() -> bool:
            submitted.extend(hierarchy.submit(40, ms=100))
            return any(b'"in_progress"' in record for record in client.hvals(CellKeys("distributor-2").actual))

        until(busy, "the other distributor has handed out work")

    hierarchy.processes.kill_all("distributor-2", "distributor-2b")
    hierarchy.collect()

    assert hierarchy.processes.wait(COORDINATOR) == -9
    hierarchy.start("distributor-2")
    hierarchy.ready()
    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert verdict.executed - before <= len(submitted) + 2 * PREFETCH
    began = [entry for entry in hierarchy.entries() if entry.kind == "began" and entry.task_id in set(submitted)]
    assert len({(entry.task_id, entry.facts["attempt"]) for entry in began}) == len(began)  # no number is used twice


@pytest.mark.matrix(35, 36)
@pytest.mark.parametrize("agent_id", [COORDINATOR, "distributor-1", "worker-1"])
def test_a_second_process_of_an_id_leaves_by_itself_and_has_written_nothing(hierarchy: Stage, agent_id: str) -> None:
    before = hierarchy.executions()
    hierarchy.submit(60)

    began_s = time.time()
    intruder = hierarchy.processes.start(role_of(agent_id), agent_id, *hierarchy.flags_of(agent_id), name="intruder")
    count = 60 + hierarchy.load(lambda: not hierarchy.processes.alive("intruder"), max_tasks=1200)
    code = hierarchy.processes.wait("intruder")

    verdict = hierarchy.verdict()
    assert code == 1, hierarchy.processes.log("intruder")
    assert hierarchy.processes.log_file("intruder").stat().st_mtime - began_s <= 2 + SLACK_S  # its last word
    assert verdict.clean, verdict
    assert verdict.executed - before == count
    assert intruder not in {grant.pid for grants in verdict.grants.values() for grant in grants}
