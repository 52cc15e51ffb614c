"""An id whose key was stolen is retired: nothing that is said in its name counts, and others have its tasks."""

from __future__ import annotations

import pytest

from core.client.agent_client import AgentClient
from core.errors import RevokedKey
from core.redis_backend.keys import CoordinatorKeys
from core.revocation import lines_of
from core.roles import Address, Role
from core.signing import KeyRing
from core.tasks import Task
from tests.faults.machines import COORDINATOR, Machines
from tests.faults.outages import one_server
from tests.waiting import until

pytestmark = one_server

K, D1 = Address(Role.COORDINATOR, COORDINATOR), Address(Role.DISTRIBUTOR, "d1")
W2 = Address(Role.WORKER, "w2")


@pytest.fixture
def at_work(machines: Machines) -> Machines:
    """k, d1 with w1 and w2, d2 with w3."""
    for name, whose in [("k", ""), ("d1", ""), ("d2", ""), ("w1", "d1"), ("w2", "d1"), ("w3", "d2")]:
        machines.start(name, whose)
    machines.heard("d1", "w1", "w2")
    machines.heard("d2", "w3")
    machines.heard("k", "d1", "d2")
    return machines


def steps(count: int, ms: int) -> list[Task]:
    return [Task(task_type="step", payload={"number": number, "ms": ms}) for number in range(count)]


def test_the_tasks_of_an_agent_that_is_revoked_end_elsewhere_though_it_lives_and_says_otherwise(
    at_work: Machines,
) -> None:
    """First a worker, then a distributor with all its workers; neither is stopped."""
    with at_work.client("alice") as alice:
        until(lambda: who_runs(alice) == {"w1", "w2", "w3"}, "all are at work")
        ids = held(at_work, alice, "w1")
        assert "is revoked" in at_work.agents("key revoke worker w1 --distributor d1")
        until(lambda: at_work.said("d1", "child_revoked"), "its distributor knows")
        let_go(at_work, "w1")
        assert {task.status for task in alice.as_completed(ids, 20)} == {"completed"}
        assert who_runs(alice) == {"w2", "w3"}
        assert "worker:w1" in quarantined(at_work, "revoked")

        ids = held(at_work, alice, "w3")
        assert "is revoked" in at_work.agents("key revoke distributor d2")
        until(lambda: at_work.said("k", "child_revoked"), "the coordinator knows")
        until(lambda: at_work.said("k", "tasks_moved"), "its tasks are given to others")
        let_go(at_work, "w3")
        assert {task.status for task in alice.as_completed(ids, 20)} == {"completed"}
        assert at_work.said("k", "tasks_moved") == 1
        assert who_runs(alice) == {"w2"}
        assert "distributor:d2" in quarantined(at_work, "revoked")
    for name in ("d2", "w1"):
        assert at_work.processes.alive(name)
    assert at_work.agents("key revoked").count("good") == 2


def test_a_client_that_is_revoked_is_told_so_and_others_are_not_touched(at_work: Machines) -> None:
    with at_work.client("alice") as alice, at_work.client("bob") as bob:
        assert bob.result(bob.submit(Task(task_type="flaky")), 20).result == 2
        at_work.agents("key revoke client bob")
        until(lambda: at_work.said("k", "child_revoked"), "the coordinator knows")

        with pytest.raises(RevokedKey, match="another id"):
            bob.submit(Task(task_type="flaky"))
        assert alice.result(alice.submit(Task(task_type="flaky")), 20).result == 2


def test_who_can_only_write_to_redis_revokes_nobody_and_gives_no_id_back(at_work: Machines) -> None:
    stored = CoordinatorKeys(COORDINATOR).revoked
    stranger = KeyRing.from_secret(b"a secret that nobody has here", (K, D1))
    at_work.agents("key revoke worker w1 --distributor d1")
    until(lambda: at_work.said("d1", "child_revoked"), "its distributor knows")
    with at_work.server.connect() as admin:
        own = admin.get(stored)
        assert own
        copied = own.replace(b"worker:w1", b"worker:w2"), own.replace(b"distributor:d1/worker:w1", b"distributor:d1")
        rubbish = b"\n\xff\n" + b"a b c\n" * 100
        admin.set(stored, rubbish + b"".join([*copied, lines_of((K, D1, W2), stranger), lines_of((K, D1), stranger)]))
    at_work.agents("key revoke client bob")
    until(lambda: at_work.said("k", "child_revoked"), "it was read to the end")

    with at_work.client("alice") as alice:
        until(lambda: who_runs(alice) == {"w2", "w3"}, "both are at work")
    assert at_work.said("d1", "child_revoked") == at_work.said("k", "child_revoked") == 1
    assert at_work.agents("key revoked").count("not by the secret") == 2


def held(machines: Machines, client: AgentClient, worker: str) -> list[str]:
    """Submits tasks, of which this worker runs some when it returns, and none ends before `let_go`."""
    ids = client.submit_many([Task(task_type="held", payload=worker) for _ in range(40)])
    until((machines.directory / f"{worker}.{machines.processes.pid(worker)}").exists, f"{worker} runs some of them")
    return ids


def let_go(machines: Machines, worker: str) -> None:
    (machines.directory / f"{worker}.go").touch()


def who_runs(client: AgentClient) -> set[str]:
    """The workers that end new tasks now."""
    ids = client.submit_many(steps(40, ms=20))
    return {(task.assigned_to or "").rpartition("/")[2] for task in client.as_completed(ids, 20)}


def quarantined(machines: Machines, reason: str) -> str:
    """What was put aside for that reason."""
    lines = machines.agents("dlq list --quarantined --limit 500").splitlines()
    return "\n".join(line for line in lines if f" {reason} " in line)
