"""Messages that come twice, in another order, to two readers, not at all, or of which nobody knows whether they came.

Lines 22, 23, 24, 25 and 51 of the matrix.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import pytest

from core.chaos.proxy import Action, command
from core.errors import TaskTimeout
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from tests.faults.stage import CLIENT, COORDINATOR, DISTRIBUTORS, WORKERS, Stage
from tests.faults.test_kills import PREFETCH
from tests.waiting import until

#: A reader is held for so long while what it has not read is tampered with: too short to be taken for dead.
HELD_S = 0.3
WINDOW = 100


@contextmanager
def under_load(stage: Stage, count: int) -> Iterator[Callable[[], bool]]:
    """Submits `count` tasks, each in a message of its own, 16 at a time. Gives whether that is still going on."""
    with ThreadPoolExecutor(16) as pool:
        tasks = stage.tasks(count, ms=10)
        accepted = [pool.submit(stage.submit_tasks, [task]) for task in tasks]
        yield lambda: not all(future.done() for future in accepted)
        for future in accepted:
            future.result()


def inbox_of(stage: Stage, name: str) -> str:
    return stage.lease_key(name).removesuffix("lease") + "inbox"


@pytest.mark.matrix(22)
def test_messages_that_come_up_to_four_times_have_one_effect_and_the_copies_are_counted(stage: Stage) -> None:
    chance = random.Random(22)
    stage.start()
    seen, copies, count = set[bytes](), 0, 0
    with stage.server.connect() as client:
        while count < 200:
            count += len(stage.submit(20))
            for transaction in stage.transactions():
                for key, _, *fields in transaction.named(b"XADD"):
                    if key.endswith(b":inbox") and fields[5] not in seen:
                        seen.add(fields[5])  # its signature
                        for _ in range(chance.randint(1, 3)):
                            client.xadd(key, dict(zip(fields[::2], fields[1::2], strict=True)))
                            copies += 1
        verdict = stage.verdict()
        headers = [CoordinatorKeys(COORDINATOR).header, *(CellKeys(name).header for name in DISTRIBUTORS)]
        headers += [stage.lease_key(name).removesuffix(":lease") for name in WORKERS]
        counted = sum(int(client.hget(header, "rejected:replayed") or 0) for header in headers)

    assert verdict.clean, verdict
    assert verdict.executed == count
    assert copies > 20
    assert counted == copies


@pytest.mark.matrix(23)
@pytest.mark.parametrize("agent_id", [COORDINATOR, "distributor-1", "worker-1"])
def test_an_inbox_that_a_second_reader_takes_over_while_the_first_works_has_each_entry_dealt_with_once(
    hierarchy: Stage, agent_id: str
) -> None:
    """There is no consumer group whose entries could be claimed: an entry is in the stream until it was dealt with, and
    belongs to whoever holds the lease. So the lease is taken away from an owner that is held for a moment in the middle
    of its work: its standby reads what the owner has in its hands, and the owner goes on with that."""
    processes, taken, owners = hierarchy.processes, 0, [agent_id, f"{agent_id}b"]
    for name in owners:
        processes.kill_all(name)
        hierarchy.start(name, AGENT_STANDBY="true")
    hierarchy.acting(agent_id)
    before = hierarchy.executions()

    with under_load(hierarchy, 300) as loading, hierarchy.server.connect() as client:
        while loading() and taken < 6:
            owner = hierarchy.acting(agent_id)
            [standby] = {*owners} - {owner}
            processes.stop(owner)
            client.delete(hierarchy.lease_key(owner))
            hierarchy.ready(standby)
            processes.cont(owner)
            taken += 1

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert 300 <= verdict.executed - before <= 300 + taken * PREFETCH
    pids = {processes.pid(name) for name in owners}
    holders = [grant.pid for grant in verdict.grants[hierarchy.lease_key(agent_id)] if grant.pid in pids]
    assert sum(one != next_one for one, next_one in pairwise(holders)) >= taken > 1


@pytest.mark.matrix(24)
def test_messages_in_another_order_have_the_same_effect(hierarchy: Stage) -> None:
    """Its reader is held while what lies in an inbox, from all senders, is put into a random order."""
    chance, before, moved = random.Random(24), hierarchy.executions(), 0

    with under_load(hierarchy, 300) as loading:
        while loading():
            agent_id = chance.choice((COORDINATOR, COORDINATOR, *DISTRIBUTORS, *WORKERS))
            name = hierarchy.acting(agent_id)
            hierarchy.processes.stop(name)
            time.sleep(HELD_S)
            moved += shuffle(hierarchy, inbox_of(hierarchy, name), chance)
            hierarchy.processes.cont(name)

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert verdict.executed - before == 300
    assert moved > 10


def shuffle(stage: Stage, inbox: str, chance: random.Random) -> int:
    """How many entries have been put into another order."""
    with stage.server.connect() as client, client.pipeline() as pipeline:
        entries = client.xrange(inbox, count=WINDOW)
        if len(entries) < 2:
            return 0
        pipeline.xdel(inbox, *(entry_id for entry_id, _ in entries))
        for _, fields in chance.sample(entries, len(entries)):
            pipeline.xadd(inbox, fields)
        pipeline.execute()
        return len(entries)


@pytest.mark.matrix(25)
def test_what_is_acknowledged_by_somebody_who_has_not_dealt_with_it_is_noticed_and_recorded_once(
    hierarchy: Stage,
) -> None:
    """An owner of before can acknowledge only in a transaction under its lease, so none of ours does this."""
    chance, deleted, items, before = random.Random(25), 0, 0, hierarchy.executions()

    with under_load(hierarchy, 200) as loading:
        while loading() and deleted < 20:
            name = hierarchy.acting(chance.choice((*DISTRIBUTORS, *WORKERS)))
            hierarchy.processes.stop(name)
            time.sleep(HELD_S / 3)
            with hierarchy.server.connect() as client:
                inbox = inbox_of(hierarchy, name)
                for entry_id, fields in client.xrange(inbox, count=3):
                    if client.xdel(inbox, entry_id):
                        deleted += 1
                        items += len(json.loads(fields[b"body"])["payload"].get("tasks", ()))
            hierarchy.processes.cont(name)

    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert deleted > 5
    assert 200 <= verdict.executed - before <= 200 + items  # as many results may have been lost


@pytest.mark.matrix(51)
@pytest.mark.parametrize("how", ["reset", "swallow"])
def test_a_submission_of_unknown_outcome_is_one_task_however_often_it_is_made_again(stage: Stage, how: Action) -> None:
    stage.start()
    stage.link(CLIENT)
    rule = stage.links[CLIENT].on_request(command("XADD"), how, times=3)
    stage.submit(60)

    verdict = stage.verdict()
    assert rule.hits >= 1  # what arrived may be answered before it is said again
    assert verdict.clean, verdict
    assert (verdict.accepted, verdict.ended, verdict.executed) == (60, 60, 60)


#: A client that does not live to hear that its tasks were accepted.
ONE_SUBMISSION = """
from core.client.agent_client import AgentClient
from core.tasks import Task
with AgentClient() as client:
    client.submit_many([Task(task_id=f"t{n}", task_type="chaos.work", payload={"number": n}) for n in range(1, 61)])
"""


@pytest.mark.matrix(51)
def test_a_client_that_died_and_one_that_gave_up_and_asked_again_are_one_task_each(stage: Stage) -> None:
    environment = {**stage.processes.environment, "COORDINATOR_ID": COORDINATOR}
    died = subprocess.Popen([sys.executable, "-c", ONE_SUBMISSION], env=environment)
    try:
        with stage.server.connect() as client:
            until(lambda: client.xlen(inbox_of(stage, COORDINATOR)), "its submission lies there")
    finally:
        died.kill()
        died.wait()
    tasks = stage.tasks(60)
    with pytest.raises(TaskTimeout):
        stage.client.submit_many(tasks, timeout_s=0.5)
    stage.start()
    stage.submit_tasks(tasks)

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert (verdict.accepted, verdict.ended, verdict.executed) == (60, 60, 60)
