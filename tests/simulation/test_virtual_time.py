"""Virtual time, and what a store and its connections make of it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from core.errors import LeaseLost, TransportDown
from core.memory_backend.clock import EPOCH_S, NothingLeft, ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.faulty_connection import CALM, Faults, FaultyConnection
from core.memory_backend.store import MemoryStore
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys
from tests.builders import COORDINATOR, DISTRIBUTOR

HOUR_S = 3600.0
KEYS = CellKeys(DISTRIBUTOR.agent_id).agent(COORDINATOR.agent_id)


async def connected(store: MemoryStore) -> MemoryConnection:
    connection = MemoryConnection(store)
    await connection.connect()
    return connection


def test_an_hour_passes_at_once_and_timers_keep_their_order() -> None:
    async def main() -> tuple[float, list[str]]:
        loop, heard = asyncio.get_running_loop(), list[str]()
        loop.call_later(HOUR_S / 2, heard.append, "half")
        loop.call_later(1, heard.append, "soon")
        began_s = loop.time()
        await asyncio.sleep(HOUR_S)
        return loop.time() - began_s, heard

    began_s = time.monotonic()

    assert run_virtual(main(), seed=1) == (HOUR_S, ["soon", "half"])
    assert time.monotonic() - began_s < HOUR_S / 60


def test_who_waits_for_what_can_never_come_is_told() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingLeft):
        run_virtual(main(), seed=1)


def test_chance_follows_from_the_seed_and_leaves_that_of_the_program_alone() -> None:
    async def main() -> float:
        return random.random()

    before = random.getstate()

    assert run_virtual(main(), seed=1) == run_virtual(main(), seed=1) != run_virtual(main(), seed=2)
    assert random.getstate() == before


def test_keys_end_when_virtual_time_says_so() -> None:
    async def main() -> list[Any]:
        connection = await connected(MemoryStore(ServerTime()))
        replies = await connection.exchange([("SET", "k", "v", "PX", 1000), ("WATCH", "k")])
        await asyncio.sleep(0.999)
        replies += await connection.exchange([("GET", "k"), ("PTTL", "k")])
        await asyncio.sleep(0.001)
        return replies + await connection.exchange([("GET", "k"), ("MULTI",), ("EXEC",)])

    assert run_virtual(main(), seed=1) == [b"OK", b"OK", b"v", 1, None, b"OK", None]


def test_ids_of_entries_grow_although_the_clock_steps_back() -> None:
    async def main() -> list[bytes]:
        clock = ServerTime()
        connection = await connected(MemoryStore(clock))
        ids = await connection.exchange([("XADD", "s", "*", "f", 1), ("XADD", "s", "*", "f", 2)])
        clock.step(-60)
        ids += await connection.exchange([("XDEL", "s", ids[1]), ("XADD", "s", "*", "f", 3)])
        clock.step(61)
        return [*ids, *await connection.exchange([("XADD", "s", "*", "f", 4)])]

    epoch_ms = int(EPOCH_S) * 1000
    assert run_virtual(main(), seed=1) == [
        b"%d-0" % epoch_ms, b"%d-1" % epoch_ms, 1, b"%d-2" % epoch_ms, b"%d-0" % (epoch_ms + 1000),
    ]  # fmt: skip


@pytest.mark.parametrize("step_s", [-HOUR_S, 0.0, HOUR_S])
def test_a_dead_holders_lease_is_free_after_its_time_whatever_the_clock_of_the_store_does(step_s: float) -> None:
    async def main() -> float:
        clock = ServerTime()
        store = MemoryStore(clock)
        first, second = (
            Committer(MemoryConnection(store), DISTRIBUTOR, KEYS, ServerClock(), lease_ms=5000) for _ in range(2)
        )
        await first.leaseholder.acquire()
        clock.step(step_s)
        began_s = asyncio.get_running_loop().time()
        await second.leaseholder.acquire()
        with pytest.raises(LeaseLost):
            await first.commit([("SET", "k", "late")], {})
        return asyncio.get_running_loop().time() - began_s

    assert run_virtual(main(), seed=1) < 5.5


class Refusing(MemoryConnection):
    """Nobody listens where it connects to, while it is so."""

    away = False

    async def connect(self) -> None:
        if self.away:
            raise TransportDown("refused")
        await super().connect()


@pytest.mark.parametrize(("lease_s", "within_s"), [(2.0, 0.4), (10.0, 2.0)])
def test_however_long_a_store_was_away_a_commit_that_waits_for_it_comes_within_a_fifth_of_the_lease(
    lease_s: float, within_s: float
) -> None:
    async def main() -> float:
        loop, connection = asyncio.get_running_loop(), Refusing(MemoryStore(ServerTime()))
        committer = Committer(connection, DISTRIBUTOR, KEYS, ServerClock(), lease_ms=int(lease_s * 1000))
        await committer.leaseholder.acquire()
        slowest_s = 0.0
        for away_s in range(1, 60):
            connection.away = True
            await connection.close()
            committing = asyncio.ensure_future(committer.commit([("SET", "k", away_s)], {}))
            await asyncio.sleep(away_s)
            connection.away, back_s = False, loop.time()
            await committing
            slowest_s = max(slowest_s, loop.time() - back_s)
        return slowest_s

    assert run_virtual(main(), seed=1) <= within_s


@pytest.mark.parametrize(
    ("fault", "raised", "at_once", "in_the_end"),
    [
        ("cut", True, 0, 0),
        ("request_lost", True, 0, 0),
        ("part_lost", True, None, None),
        ("late", True, 0, 3),
        ("reply_lost", True, 3, 3),
        ("split", False, 3, 3),
    ],
)
def test_a_fault_does_what_its_name_says(fault: str, raised: bool, at_once: int | None, in_the_end: int | None) -> None:
    async def main() -> tuple[bool, int, int]:
        store, faults = MemoryStore(ServerTime()), [Faults(**{fault: 1.0})]
        faulty = FaultyConnection(lambda: MemoryConnection(store), random.Random(1), lambda: (faults or [CALM])[-1])
        observer = await connected(store)
        storm, faults[:] = list(faults), []
        await faulty.connect()
        faults[:] = storm
        try:
            await faulty.exchange([("INCR", "n")] * 3)
            failed = False
        except TransportDown:
            failed = not faulty.connected
        [at_once] = await observer.exchange([("GET", "n")])
        await asyncio.sleep(60)
        [in_the_end] = await observer.exchange([("GET", "n")])
        return failed, int(at_once or 0), int(in_the_end or 0)

    failed, seen_at_once, seen_in_the_end = run_virtual(main(), seed=1)

    assert failed is raised
    assert seen_at_once < 3 if at_once is None else seen_at_once == at_once
    assert seen_in_the_end < 3 if in_the_end is None else seen_in_the_end == in_the_end
