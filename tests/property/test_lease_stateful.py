"""Several processes that want to act for one agent, in any order of events: never two at a time, and no commit lost.

Every operation goes to a real server. The model is a list of the commits that were told to have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.config.settings import RedisConfig
from core.errors import LeaseLost
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys
from core.redis_client import Wire
from core.roles import Address, Role
from tests.redis_server import RedisServer

CELL = CellKeys("d")
DONE = "{shared:distributor:d}:done"
PROCESSES = 3
T = TypeVar("T")
ONE = st.integers(0, PROCESSES - 1)


class Contenders(RuleBasedStateMachine):
    """Three committers for one agent, as three processes would have them."""

    server: RedisServer
    config: RedisConfig

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.plain: redis.Redis = self.server.connect()
        self.contenders: list[Committer] = []
        self.told: list[tuple[int, int]] = []  # (version, epoch) of commits that were told to have happened
        self.lapsed = False  # the lease ran out, and nobody has taken it since
        self.epochs: list[int] = []  # in the order in which they were granted

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.plain.flushall()
        self.contenders = [self.made(number) for number in range(PROCESSES)]

    def made(self, number: int) -> Committer:
        agent = Address(Role.DISTRIBUTOR, "d")
        committer = Committer(Wire(self.config), agent, CELL.agent("c"), ServerClock(), lease_ms=60_000)
        committer.lease.process = f"elsewhere/{number}/0"
        return committer

    # ---- what may happen ----

    @rule(who=ONE)
    def asks_for_the_lease(self, who: int) -> None:
        """A single look, as `acquire` takes one after the other."""
        free = not self.plain.exists(CELL.lease)
        if self.contenders[who].lease.epoch:
            return  # it believes that it has it
        while (held := self.do(self.contenders[who].leaseholder.attempt())) == b"":
            pass
        assert (held is None) == free
        if held is None:
            self.lapsed = False
            self.epochs.append(self.contenders[who].lease.epoch)
        else:
            self.contenders[who].lease.epoch = 0

    @rule(who=ONE)
    def commits(self, who: int) -> None:
        committer = self.contenders[who]
        if not committer.lease.epoch:
            return
        before = committer.lease.epoch
        try:
            version = self.do(
                committer.commit([("RPUSH", DONE, f"{committer.lease.version + 1}")], {"t": ("pending",)})
            )
        except LeaseLost:
            assert not committer.lease.epoch
            return
        if self.lapsed or committer.lease.epoch != before:
            self.epochs.append(committer.lease.epoch)  # it had run out, and was taken again under a fence of its own
            self.lapsed = False
        self.told.append((version, committer.lease.epoch))

    @rule(who=ONE)
    def renews(self, who: int) -> None:
        committer = self.contenders[who]
        if not committer.lease.epoch:
            return
        before = committer.lease.epoch
        try:
            self.do(committer.renew())
        except LeaseLost:
            return
        if self.lapsed or committer.lease.epoch != before:
            self.epochs.append(committer.lease.epoch)
            self.lapsed = False

    @rule(who=ONE)
    def loses_its_connection(self, who: int) -> None:
        self.do(self.contenders[who].close())

    @rule(who=ONE)
    def commits_while_its_connection_is_cut(self, who: int) -> None:
        """The server carries the transaction out and ends the connection from within it."""
        committer = self.contenders[who]
        if not committer.lease.epoch:
            return
        before = committer.lease.epoch
        try:
            [number] = self.do(committer.run(("CLIENT", "ID")))
            kill = ("CLIENT", "KILL", "ID", number, "SKIPME", "no")
            version = self.do(
                committer.commit([("RPUSH", DONE, f"{committer.lease.version + 1}"), kill], {"t": ("pending",)})
            )
        except LeaseLost:
            return
        if self.lapsed or committer.lease.epoch != before:
            self.epochs.append(committer.lease.epoch)
            self.lapsed = False
        self.told.append((version, committer.lease.epoch))

    @rule()
    def the_lease_runs_out(self) -> None:
        self.lapsed = bool(self.plain.delete(CELL.lease)) or self.lapsed

    @rule(who=ONE)
    def gives_the_lease_back(self, who: int) -> None:
        try:
            self.do(self.contenders[who].leaseholder.release())
        except LeaseLost:
            self.contenders[who].lease.epoch = 0

    @precondition(lambda self: len(self.contenders) == PROCESSES)
    @rule(who=ONE)
    def is_killed_and_started_anew(self, who: int) -> None:
        self.do(self.contenders[who].close())
        self.contenders[who] = self.made(who)

    # ---- what must hold ----

    @invariant()
    def no_commit_was_lost_or_done_twice(self) -> None:
        done = [int(value) for value in self.plain.lrange(DONE, 0, -1)]
        assert done == list(range(1, len(done) + 1))
        assert [version for version, _ in self.told] == done
        assert int(self.plain.hget(CELL.header, "distributor_version") or 0) == len(done)

    @invariant()
    def every_lease_had_a_higher_fence_than_the_one_before(self) -> None:
        assert self.epochs == sorted(set(self.epochs))

    @invariant()
    def nobody_wrote_under_a_fence_after_a_higher_one_was_written(self) -> None:
        written = [epoch for _, epoch in self.told]
        assert written == sorted(written)

    def teardown(self) -> None:
        for committer in self.contenders:
            self.do(committer.close())
        self.plain.close()
        self.loop.close()


def test_whatever_happens_to_whoever_wants_the_lease_commits_are_counted_without_a_gap(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    machine = type("OnThisServer", (Contenders,), {"server": redis_server, "config": redis_config})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
