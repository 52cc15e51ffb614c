"""Agents that register, live, lapse and leave in any order: records and indexes always tell the same.

Every operation goes to a real server. The model is a dictionary of the agents that are registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from core.config.settings import RedisConfig
from core.errors import AgentTaken
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import HEALTH_LEVELS
from core.redis_client import Wire
from core.registry.agent_info import Declared, FleetStatus, Lifecycle, Load
from core.registry.agent_registry import AgentRegistry
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.registry.source import RegistrySource
from tests.redis_server import RedisServer

KEYS = RegistryKeys("c")
LEASES, SUSPECTS, INDEXES = KEYS.of_scripts
HOUR_MS = 3600 * 1000
T = TypeVar("T")
AN_ID = st.sampled_from(["a", "b", "c", "d"])
NAMES = st.frozensets(st.sampled_from(["x", "y", "z w", "ü:1"]), max_size=3)


class Fleet(RuleBasedStateMachine):
    """Four agents, each of which may start anywhere."""

    server: RedisServer
    config: RedisConfig

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.plain: Any = self.server.connect()
        self.source = RegistrySource(lambda: Wire(self.config))
        self.registry = AgentRegistry("c", self.source)
        self.discovery = AgentDiscoveryService("c", self.source)
        self.here: dict[str, tuple[Declared, str, int, bool]] = {}  # by id: with place, incarnation, whether it is busy
        self.of_an_older_release: set[str] = set()  # who was registered by one, which listed nobody by health
        self.lapsed: set[str] = set()  # whose lease is over, and who may still be listed

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.plain.flushall()
        self.of_an_older_release.clear()

    def swept(self) -> None:
        """What every script that writes does first."""
        self.lapsed.clear()

    # ---- what may happen ----

    @rule(agent_id=AN_ID, place=st.sampled_from("pq"), start=st.integers(1, 3), names=NAMES, tags=NAMES)
    def registers(self, agent_id: str, place: str, start: int, names: frozenset[str], tags: frozenset[str]) -> None:
        declared = Declared(agent_id=agent_id, capabilities=tuple(names), tags=tuple(tags), services=tuple(names))
        known = self.here.get(agent_id)
        self.swept()
        given = 0
        try:
            given = self.do(self.registry.register(declared, place=place, incarnation=start, lease_ms=HOUR_MS))
        except AgentTaken as error:
            taken_at = error.place
        else:
            taken_at = ""
        if taken_at:
            assert known is not None
            assert taken_at == known[1]
            assert known[1] != place or known[2] > start
            return
        assert known is None or (known[1] == place and known[2] <= start)
        assert given == start
        self.here[agent_id] = (declared, place, start, False)
        self.of_an_older_release.discard(agent_id)

    @rule(agent_id=AN_ID)
    def was_registered_by_an_older_release(self, agent_id: str) -> None:
        if agent_id in self.here and agent_id not in self.of_an_older_release:
            lines = self.plain.hget(KEYS.record(agent_id), "indexes").decode().split("\n")
            for name in (line for line in lines if line.startswith("health:")):
                self.plain.zrem(KEYS.index(name), agent_id)
                if not self.plain.exists(KEYS.index(name)):
                    self.plain.srem(INDEXES, name)
            self.plain.hset(KEYS.record(agent_id), "indexes", "\n".join(self.here[agent_id][0].indexes()))
            self.plain.hdel(KEYS.record(agent_id), "health_level")
            self.of_an_older_release.add(agent_id)

    @rule(agent_id=AN_ID, start=st.integers(0, 3), busy=st.booleans(), error_rate=st.sampled_from([0, 0.1, 0.45, 1]))
    def says_that_it_lives(self, agent_id: str, start: int, busy: bool, error_rate: float) -> None:
        known = self.here.get(agent_id)
        load = Load(in_flight=int(busy), capacity=1)
        renewed = self.do(
            self.registry.heartbeat(agent_id, load, error_rate=error_rate, incarnation=start, lease_ms=HOUR_MS)
        )
        assert renewed == (known is not None and start in (0, known[2]))
        if renewed and known:
            self.here[agent_id] = (*known[:3], busy)
            self.of_an_older_release.discard(agent_id)

    @rule(agent_id=AN_ID, silent=st.sampled_from([0.2, 0.4, 0.8]))
    def is_silent_for_a_share_of_its_lease(self, agent_id: str, silent: float) -> None:
        if agent_id in self.here:
            last_ms = int(self.plain.time()[0] * 1000 - silent * HOUR_MS)
            self.plain.zadd(LEASES, {agent_id: last_ms + HOUR_MS})
            self.plain.zadd(SUSPECTS, {agent_id: last_ms + HOUR_MS / 2})
            self.plain.hset(KEYS.record(agent_id), "last_heartbeat", last_ms)

    @rule(agent_id=AN_ID, start=st.integers(0, 3))
    def leaves(self, agent_id: str, start: int) -> None:
        known = self.here.get(agent_id)
        self.swept()
        removed = self.do(self.registry.deregister(agent_id, start))
        assert removed == (known is not None and start in (0, known[2]))
        if removed:
            del self.here[agent_id]

    @rule(agent_id=AN_ID)
    def falls_silent_until_its_lease_is_over(self, agent_id: str) -> None:
        if agent_id in self.here:
            self.plain.zadd(LEASES, {agent_id: 1})
            self.plain.zadd(SUSPECTS, {agent_id: 1})
            self.plain.hset(KEYS.record(agent_id), "last_heartbeat", 1)
            self.lapsed.add(agent_id)
            del self.here[agent_id]

    # ---- what must hold ----

    @invariant()
    def whoever_has_a_lease_is_in_exactly_its_indexes(self) -> None:
        leased = {name.decode() for name in self.plain.zrange(LEASES, 0, -1)}
        assert set(self.here) <= leased <= {*self.here, *self.lapsed}
        assert {name.decode() for name in self.plain.zrange(SUSPECTS, 0, -1)} == leased
        listed: set[tuple[str, str]] = set()
        for key in self.plain.keys(KEYS.index("*")):
            index = key.decode().removeprefix(KEYS.indexes)
            listed |= {(member.decode(), index) for member in self.plain.zrange(key, 0, -1)}
        expected = {
            (agent_id, index)
            for agent_id, (declared, _, _, busy) in self.here.items()
            for index in (
                *declared.indexes(), f"status:{'busy' if busy else 'active'}", *self.listed_health(agent_id),
            )
        }  # fmt: skip
        assert {entry for entry in listed if entry[0] in self.here} == expected
        assert {agent_id for agent_id, _ in listed} <= leased
        assert {name.decode() for name in self.plain.smembers(INDEXES)} == {index for _, index in listed}

    def listed_health(self, agent_id: str) -> list[str]:
        if agent_id in self.of_an_older_release:
            return []
        score = float(self.plain.hget(KEYS.record(agent_id), "health_score"))
        return [f"health:{level}" for level in HEALTH_LEVELS if level <= score * 100 + 0.1]

    @rule(
        capabilities=st.sampled_from([(), ("ü:1",), ("x", "y")]), status=st.sampled_from([None, *FleetStatus]),
        least=st.sampled_from([0.0, 0.05, 0.55, 0.9, 1.0]),
    )  # fmt: skip
    def are_searched(self, capabilities: tuple[str, ...], status: FleetStatus | None, least: float) -> None:
        self.a_search_finds(Wanted(capabilities=capabilities, status=status, min_health=least))

    @invariant()
    def a_search_finds_whoever_fits_and_nobody_who_is_gone(self) -> None:
        for status in (None, FleetStatus.ACTIVE, FleetStatus.STALE):
            for least in (0.0, 0.9):
                self.a_search_finds(Wanted(capabilities=("x",), status=status, min_health=least))

    def a_search_finds(self, wanted: Wanted) -> None:
        """What is known of each alone says whom it finds."""
        known = [self.do(self.registry.get(agent_id)) for agent_id in sorted(self.here)]
        here = [info for info in known if info is not None]
        assert {info.lifecycle for info in here} <= {Lifecycle.ACTIVE, Lifecycle.SUSPECT}
        assert self.found(wanted) == [info.agent_id for info in here if wanted.fits(info)]
        assert len(here) == len(self.here)

    def found(self, wanted: Wanted) -> list[str]:
        """All that fit, two to a page."""
        page = self.do(self.discovery.find(wanted, limit=2))
        found = [*page.agents]
        while page.next is not None:
            page = self.do(self.discovery.find(wanted, limit=2, after=page.next))
            found += page.agents
        return [info.agent_id for info in found]

    @invariant()
    def the_statistics_count_who_is_there(self) -> None:
        assert self.do(self.registry.stats()).registered == len(self.here)

    def teardown(self) -> None:
        self.do(self.source.close())
        self.loop.close()
        self.plain.close()


def test_records_and_indexes_tell_the_same_whatever_happens(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    class OnThisServer(Fleet):
        server = redis_server
        config = redis_config

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
