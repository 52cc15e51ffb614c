"""Two that want one lease in the same moment. Line 37 of the matrix."""

from __future__ import annotations

import asyncio

import pytest

from core.config.settings import RedisConfig
from core.errors import LeaseHeld
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys
from core.redis_client import Wire
from core.roles import Address, Role
from tests.faults.stage import LEASE_S
from tests.redis_server import RedisServer

ROUNDS, AT_ONCE = 1000, 100


def contender(config: RedisConfig, number: int, process: str) -> Committer:
    address = Address.of(Role.DISTRIBUTOR, f"d{number}")
    keys = CellKeys(address.agent_id).agent("c")
    made = Committer(Wire(config), address, keys, ServerClock(), lease_ms=int(LEASE_S * 1000))
    made.lease.process = f"elsewhere/{process}/0"  # all of them run in this one process, which lives
    return made


async def race(config: RedisConfig, number: int) -> list[Committer]:
    """Those who got the lease; each loser has been told by the sight of the winner's renewals."""
    contenders = [contender(config, number, process) for process in ("1", "2")]
    holders: list[Committer] = []

    async def take(committer: Committer) -> None:
        try:
            await committer.leaseholder.acquire()
            holders.append(committer)
        except LeaseHeld:
            pass

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE_S / 20)
            for holder in holders:
                await holder.renew()

    renewing = asyncio.create_task(renew())
    try:
        await asyncio.gather(*map(take, contenders))
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        for committer in contenders:
            await committer.close()
    return holders


@pytest.mark.matrix(37)
async def test_of_two_that_want_a_lease_in_the_same_moment_exactly_one_has_it(chaos_server: RedisServer) -> None:
    chaos_server.clean()
    config = RedisConfig(url=chaos_server.url, password=chaos_server.password, mode="external")
    holders, winners = [], set[str]()

    for first in range(0, ROUNDS, AT_ONCE):
        for round_holders in await asyncio.gather(*(race(config, first + number) for number in range(AT_ONCE))):
            holders.append(len(round_holders))
            winners.update(holder.lease.process for holder in round_holders)

    assert holders == [1] * ROUNDS
    assert len(winners) == 2  # it was a race
