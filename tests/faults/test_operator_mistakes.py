"""An operator deletes what agents live on, under load: lines 43 to 45 of the matrix.

There are no consumer groups to destroy here, and no consumers to delete with what they have not acknowledged. What an
operator can do in their place is to delete entries that an agent has not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from core.chaos.append_log import AppendLog
from core.client.requests import ANSWER_S
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from tests.faults.outages import (
    all_act,
    history_of,
    judged_after_loss,
    log_lines,
    one_server,
    split_at_flush,
    told_by_now,
    under_load,
)
from tests.faults.stage import COORDINATOR, LEASE_S, PROFILE_ENVIRONMENT, Stage
from tests.waiting import until

Redis = Any

FAILURE_TIMEOUT_S = float(PROFILE_ENVIRONMENT["AGENT_FAILURE_TIMEOUT_S"])
#: Two cores for a dozen processes.
SLACK_S = 4.0
#: The matrix asks for one lease, or two. What nobody answers is asked anew after a failure timeout, which comes on top.
REPAIRED_WITHIN_S = LEASE_S + FAILURE_TIMEOUT_S + SLACK_S
#: A client looks twice, five seconds apart, before it says that a task is lost.
NOTICED_S = 30.0
#: Between two tries to find an inbox with something in it.
AGAIN_S = 0.05
#: Lines of warnings and errors that an agent may log each second.
MAX_ERRORS_S = 5

CELL = CellKeys("distributor-1")
INBOXES = {
    COORDINATOR: CoordinatorKeys(COORDINATOR).inbox,
    "distributor-1": CELL.inbox,
    "worker-1": CELL.worker_inbox("worker-1"),
}
HASHES = {
    "a cell's header": CELL.header,
    "what is wanted of a cell": CELL.wanted,
    "what a cell has": CELL.actual,
    "a cell's heartbeats": CELL.heartbeats,
    "a coordinator's heartbeats": CoordinatorKeys(COORDINATOR).heartbeats,
    "a cell's replay windows": CELL.agent(COORDINATOR).seen,
}


def mistaken(stage: Stage, mistake: Callable[[], None], repaired_within_s: float = REPAIRED_WITHIN_S) -> None:
    """Under load, makes the mistake; what was open then ends in time, whatever comes after it as well, and nobody
    fills his log."""
    all_act(stage)
    with under_load(stage) as load:
        load.progress()
        before, began_s = log_lines(stage), time.monotonic()
        mistake()
        load.turnover(repaired_within_s)
        load.progress()
        seconds = max(1.0, time.monotonic() - began_s)
        complaints = log_lines(stage) - before

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert {name: lines / seconds for name, lines in complaints.items() if lines / seconds >= MAX_ERRORS_S} == {}


def mistaken_in_inbox(stage: Stage, agent_id: str, mistake: Callable[[Redis, str], object]) -> None:
    """As `mistaken`, with what that agent has not read yet."""
    asked_again_s = ANSWER_S if agent_id == COORDINATOR else 0.0  # it is the client that misses its answer
    mistaken(stage, lambda: with_unread(stage, agent_id, mistake), REPAIRED_WITHIN_S + asked_again_s)


def with_unread(stage: Stage, agent_id: str, mistake: Callable[[Redis, str], object]) -> None:
    """Makes the mistake at a moment when that agent has not read what lies in its inbox."""
    name, inbox = stage.acting(agent_id), INBOXES[agent_id]
    with stage.server.connect() as client:
        while True:
            stage.processes.stop(name)
            try:
                if lies_unread(client, inbox):
                    mistake(client, inbox)
                    return
            finally:
                stage.processes.cont(name)
            time.sleep(AGAIN_S)  # it had all it may have; now it will get more


def lies_unread(client: Redis, inbox: str) -> bool:
    """Whether something comes while nobody reads, before that is taken for death."""
    deadline_s, read = time.monotonic() + FAILURE_TIMEOUT_S / 8, client.xrevrange(inbox, count=1)
    while time.monotonic() < deadline_s:
        if client.xrevrange(inbox, count=1) not in (read, []):
            return True
    return False


@one_server
@pytest.mark.matrix(43)
@pytest.mark.parametrize("agent_id", INBOXES)
def test_the_tasks_of_an_inbox_that_is_deleted_are_found_missing_and_handed_over_again(
    hierarchy: Stage, agent_id: str
) -> None:
    mistaken_in_inbox(hierarchy, agent_id, lambda client, inbox: client.delete(inbox))


@one_server
@pytest.mark.matrix(44)
@pytest.mark.parametrize("agent_id", INBOXES)
def test_entries_that_an_operator_deletes_before_they_are_read_are_found_missing_and_sent_again(
    hierarchy: Stage, agent_id: str
) -> None:
    """In place of a consumer that is deleted with its pending entries."""

    def mistake(client: Redis, inbox: str) -> None:
        client.xdel(inbox, *(entry_id for entry_id, _ in client.xrange(inbox)))

    mistaken_in_inbox(hierarchy, agent_id, mistake)


@one_server
@pytest.mark.matrix(45)
@pytest.mark.parametrize("agent_id", INBOXES)
def test_the_entries_of_an_inbox_that_is_trimmed_are_found_missing_and_sent_again(
    hierarchy: Stage, agent_id: str
) -> None:
    mistaken_in_inbox(hierarchy, agent_id, lambda client, inbox: client.xtrim(inbox, maxlen=0))


@one_server
@pytest.mark.matrix(43)
@pytest.mark.parametrize("what", HASHES)
def test_a_hash_that_is_deleted_under_load_is_written_anew_and_no_task_is_lost(hierarchy: Stage, what: str) -> None:
    key = HASHES[what]

    def mistake() -> None:
        with hierarchy.server.connect() as client:
            until(lambda: client.delete(key), "there is something to be deleted")
            until(lambda: client.exists(key), "it is written anew")

    mistaken(hierarchy, mistake)


@one_server
@pytest.mark.matrix(43)
def test_everything_is_deleted_and_all_are_at_work_again_within_a_lease_and_tell_what_is_lost(stage: Stage) -> None:
    server, log = stage.server, AppendLog(stage.server.append_directory)
    since = log.end()
    stage.start()
    all_act(stage)
    with under_load(stage) as load:
        load.progress()
        complaints = log_lines(stage)
        server.ask("FLUSHALL")
        deleted_s = time.monotonic()
        all_act(stage)
        took_s = time.monotonic() - deleted_s
        told = told_by_now(stage)
        load.turnover(NOTICED_S)
        load.progress()
        seconds = time.monotonic() - deleted_s
        complaints = log_lines(stage) - complaints

    assert took_s <= LEASE_S + SLACK_S
    before, _ = split_at_flush(log.transactions(since))
    forgotten = told & history_of(before).ends.keys()
    verdict = judged_after_loss(stage, lambda: split_at_flush(log.transactions(since))[1], forgotten)
    assert verdict.clean, verdict
    assert {name: lines / seconds for name, lines in complaints.items() if lines / seconds >= MAX_ERRORS_S} == {}


@one_server
@pytest.mark.matrix(43)
def test_scripts_that_are_flushed_are_sent_again(hierarchy: Stage) -> None:
    def mistake() -> None:
        with hierarchy.server.connect() as client:
            client.script_flush()

    mistaken(hierarchy, mistake)
