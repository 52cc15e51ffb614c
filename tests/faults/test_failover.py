"""The primary dies and a replica takes its place, or both go on: lines 20 and 21 of the matrix.

Agents reach "the primary" through a proxy that is led to the replica when that is promoted, as a name or an address
would be; the replication passes through another one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.chaos.append_log import AppendLog
from core.chaos.history import History
from core.chaos.processes import Processes
from core.chaos.proxy import Proxy
from core.config.settings import RedisConfig
from tests.faults.outages import (
    all_act,
    fences_used_again,
    history_of,
    judged_after_loss,
    one_server,
    refusal,
    told_by_now,
    under_load,
)
from tests.faults.stage import PROFILE, Stage
from tests.redis_server import RedisServer
from tests.waiting import until

#: For so long the replica has heard nothing when the primary dies.
CUT_S = 3.0
#: A client looks twice, five seconds apart, before it says that a task is lost.
NOTICED_S = 40.0
#: With these a primary that no replica has followed for a second takes no more writes.
MIN_REPLICAS = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}


class Pair:
    """A primary and its replica, and the ways to and between them. Inside, `stage` is on the primary."""

    def __init__(self, binary: Path, processes: Processes, directory: Path) -> None:
        with ExitStack() as stack:  # closes what there is by then, should one of them fail
            self._open(stack, binary, processes, directory)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack, binary: Path, processes: Processes, directory: Path) -> None:
        self.primary, self.replica = (stack.enter_context(RedisServer(binary, append_only=True)) for _ in range(2))
        self.replica.kill()
        self.replica.password = self.primary.password
        self.replica.start()
        self.replication = stack.enter_context(Proxy(self.primary.socket))
        self.way, self.other_way = (stack.enter_context(Proxy(self.primary.socket)) for _ in range(2))
        self.stage = Stage(self.primary, processes, directory)
        stack.callback(self.stage.close)
        self._follow(self.primary, self.replica, self.replication)

    def close(self) -> None:
        self._stack.close()

    def redis(self, way: Proxy, wait_replicas: int = 0) -> RedisConfig:
        """How a client gets to the server."""
        return RedisConfig(url=way.url, password=self.primary.password, mode="external", wait_replicas=wait_replicas)

    def fail_over(self) -> tuple[History, History, set[str]]:
        """The primary dies when the replica has heard nothing for a while, and the replica takes its place. Returns
        what the one had written, what the other had of it, and the tasks whose end the client had been told by then."""
        self.replication.cut()
        time.sleep(CUT_S)
        self.primary.write_log()
        self.primary.kill()
        self.way.cut()
        self.replica.write_log()
        before, kept = self.history(self.primary), self.history(self.replica)
        told = told_by_now(self.stage)
        self.promote()
        self.lead_to_replica(self.way)
        self.way.heal()
        return before, kept, told

    def promote(self) -> None:
        """The replica is a primary from now on. Agents are not told."""
        self.replica.ask("REPLICAOF", "NO", "ONE")

    def lead_to_replica(self, way: Proxy) -> None:
        """Who goes this way comes to the replica."""
        way.retarget(self.replica.socket)
        self.stage.server = self.replica

    def follow_replica(self) -> None:
        """The old primary becomes the replica of the new one; what only it had is gone."""
        self.replication.retarget(self.replica.socket)
        self.replication.heal()
        self._follow(self.replica, self.primary, self.replication)

    def history(self, server: RedisServer) -> History:
        """All that it has written, or has heard of."""
        return history_of(AppendLog(server.append_directory).transactions())

    def _follow(self, leader: RedisServer, follower: RedisServer, replication: Proxy) -> None:
        with leader.connect() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with follower.connect() as client:
            client.config_set("masterauth", leader.password)
            client.replicaof("127.0.0.1", replication.port)
            until(lambda: client.info("replication").get("master_link_status") == "up", "the replica follows")
            until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "it has written all down")


@pytest.fixture
def pair(chaos_server: RedisServer, processes: Processes, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(chaos_server.binary, processes, tmp_path)
    yield pair
    pair.close()


@one_server
@pytest.mark.matrix(20)
def test_a_failover_loses_what_had_not_reached_the_replica_which_is_told_and_done_again(pair: Pair) -> None:
    stage = pair.stage
    stage.start(REDIS_URL=pair.way.url)
    all_act(stage)
    with under_load(stage, run_ms=100, redis=pair.redis(pair.way)) as load:
        load.progress()
        reached = told_by_now(stage)
        load.progress(20)
        before, kept, told = pair.fail_over()
        load.turnover(NOTICED_S)
        load.progress()

    gone = before.ends.keys() - kept.ends.keys()
    verdict = judged_after_loss(stage, AppendLog(pair.replica.append_directory).transactions, told & gone)
    assert verdict.clean, verdict
    assert load.submitter.lost
    assert set(load.submitter.lost) <= before.records.keys() - kept.records.keys()
    assert reached <= kept.ends.keys()
    assert fences_used_again(before.grants, verdict.grants) == {}


@pytest.mark.matrix(20)
def test_what_a_client_that_waits_for_a_replica_was_told_no_failover_takes_back(pair: Pair) -> None:
    stage = pair.stage
    stage.start(REDIS_URL=pair.way.url)
    all_act(stage)
    with under_load(stage, redis=pair.redis(pair.way, wait_replicas=1)) as load:
        load.progress()
        before, kept, told = pair.fail_over()
        pair.primary.start()
        pair.follow_replica()
        load.turnover(NOTICED_S)
        load.progress()

    assert before.ends.keys() - kept.ends.keys()
    assert told <= kept.ends.keys()
    verdict = judged_after_loss(stage, AppendLog(pair.replica.append_directory).transactions, set())
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    assert fences_used_again(before.grants, verdict.grants) == {}


@pytest.mark.matrix(21)
def test_an_old_primary_that_lives_on_takes_nothing_for_certain_and_its_agents_come_over(pair: Pair) -> None:
    """Half of the agents are left behind with the old primary, and so is the client."""
    stage, behind = pair.stage, ("coordinator-1", "distributor-1", "worker-1", "worker-3")
    for name, value in MIN_REPLICAS.items():
        pair.primary.ask("CONFIG", "SET", name, value)
    stage.start(*behind, REDIS_URL=pair.other_way.url)
    all_act(stage, *behind)
    stage.start(*(name for name in PROFILE if name not in behind), REDIS_URL=pair.way.url)
    all_act(stage)
    with under_load(stage, redis=pair.redis(pair.other_way, wait_replicas=1)) as load:
        load.progress()
        pair.replication.black_hole()
        split_at = AppendLog(pair.primary.append_directory).end()
        stage.processes.kill("worker-3")
        stage.start("worker-3", REDIS_URL=pair.other_way.url)  # it takes a lease that only the old primary knows of
        pair.promote()
        pair.lead_to_replica(pair.way)
        until(lambda: refusal(pair.primary) == "NOREPLICAS", "the old primary takes no writes")
        until(lambda: stage.acts("coordinator-1b"), "a standby acts on the new one")
        pair.primary.write_log()
        pair.replica.write_log()
        winner = pair.history(pair.replica)
        loser = history_of(AppendLog(pair.primary.append_directory).transactions(split_at))
        told = told_by_now(stage)
        with under_load(stage, redis=pair.redis(pair.way)) as other_load:
            other_load.progress()
        pair.lead_to_replica(pair.other_way)
        pair.follow_replica()
        load.turnover(NOTICED_S)
        load.progress()

    assert loser.commits
    assert told <= winner.ends.keys()
    verdict = judged_after_loss(stage, AppendLog(pair.replica.append_directory).transactions, set())
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    given_out = {(lease, grant.epoch) for lease, grants in loser.grants.items() for grant in grants}
    assert given_out
    assert not given_out & {(lease, grant.epoch) for lease, grants in verdict.grants.items() for grant in grants}
