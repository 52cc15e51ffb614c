"""Who holds the lease, who may take it, and what becomes of those who have lost it."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from core.errors import LeaseHeld, LeaseLost
from core.redis_backend import lease as leases
from tests.integration.committers import (
    CELL,
    KEYS,
    LIST,
    Make,
    Redis,
    expire,
    header,
    history,
    lease_is_gone,
    push,
    pushed,
)  # fmt: skip
from tests.waiting import until_async


async def test_a_second_live_process_is_refused_and_told_who_holds_the_id(make: Make, client: Redis) -> None:
    holder, second = make(), make()
    await holder.leaseholder.acquire()
    acquiring = asyncio.create_task(second.leaseholder.acquire())
    while not acquiring.done():
        await holder.renew()

    with pytest.raises(LeaseHeld, match=r"'d'.*another --id"):
        await acquiring


async def test_a_takeover_is_waited_for_however_often_it_commits(
    make: Make, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a coordinator does with the lease of a distributor whose tasks it takes over, and which comes back then."""
    monkeypatch.setattr(leases, "POLL_S", 0.001)
    parent, agent = make(takeover=True), make()
    before = await parent.leaseholder.acquire()
    acquiring = asyncio.create_task(agent.leaseholder.acquire())
    for _ in range(300):
        await parent.renew()
    assert not acquiring.done()

    await parent.leaseholder.release()

    assert (await acquiring).epoch > before.epoch


async def test_a_lease_that_is_not_renewed_is_waited_for(make: Make, client: Redis) -> None:
    holder, second = make(), make()
    before = await holder.leaseholder.acquire()
    acquiring = asyncio.create_task(second.leaseholder.acquire())
    await expire(client)

    assert (await acquiring).epoch > before.epoch


async def test_the_number_of_a_start_is_of_the_try_that_got_the_lease(make: Make, client: Redis) -> None:
    holder, standby = make(), make()
    await holder.leaseholder.acquire()
    acquiring = asyncio.create_task(standby.leaseholder.acquire(standby=True))
    await until_async(lambda: standby.leaseholder.waits, "it has found the holder")
    await client.config_set("maxmemory", "1")
    try:
        await client.delete(CELL.lease)
        await until_async(lambda: standby.lease.highest_epoch > 0, "it has reached for the lease in vain")
        in_vain = standby.lease.highest_epoch
    finally:
        await client.config_set("maxmemory", "0")

    grant = await acquiring

    assert standby.lease.incarnation == grant.epoch > in_vain
    assert orjson.loads(await client.get(CELL.lease) or b"")["incarnation"] == grant.epoch


async def test_the_lease_of_a_process_that_exists_no_more_is_taken_over_at_once(make: Make, client: Redis) -> None:
    from core.machine.process_identity import this_process

    holder, second = make(), make()
    holder.lease.process = this_process().rsplit("/", 2)[0] + "/4194304/1"  # beyond the largest process id
    await holder.leaseholder.acquire()

    await second.leaseholder.acquire()

    with pytest.raises(LeaseLost):
        await holder.commit([push("late")], {})
    assert await pushed(client) == []


async def test_a_released_lease_can_be_taken_at_once(make: Make, client: Redis) -> None:
    holder, second = make(), make()
    await holder.leaseholder.acquire()
    await holder.leaseholder.release()

    assert await lease_is_gone(client)
    await second.leaseholder.acquire()


async def test_releasing_a_lease_that_is_anothers_by_now_leaves_it_alone(make: Make, client: Redis) -> None:
    holder, second = make(), make()
    await holder.leaseholder.acquire()
    await expire(client)
    await second.leaseholder.acquire()

    await holder.leaseholder.release()

    assert await second.commit([push("a")], {}) == 1


async def test_who_lost_the_lease_writes_nothing_and_stays_out(make: Make, client: Redis) -> None:
    zombie, successor = make(), make()
    await zombie.leaseholder.acquire()
    await zombie.commit([push("a")], {})
    await expire(client)
    await successor.leaseholder.acquire()

    for _ in range(2):
        with pytest.raises(LeaseLost):
            await zombie.commit([push("late")], {})

    assert zombie.fenced == 2
    assert not zombie.lease.may_act
    assert await pushed(client) == [b"a"]
    assert await successor.commit([push("b")], {}) == 2


async def test_a_lease_that_ran_out_is_taken_again_when_nobody_wrote_meanwhile(make: Make, client: Redis) -> None:
    committer = make()
    before = await committer.leaseholder.acquire()
    await committer.commit([push("a")], {"t": ("pending",)})

    for version, value in ((2, "b"), (3, "c"), (4, "d")):
        await expire(client)
        assert await committer.commit([push(value)], {"t": ("pending",)}) == version

    stored = await header(client)
    assert stored == (4, committer.lease.epoch)
    assert committer.lease.epoch > before.epoch
    epochs = [epoch for _, epoch in await history(client)]
    assert epochs == sorted(set(epochs))  # each under its own fence
    assert int(await client.get(CELL.fence) or 0) == committer.lease.epoch


async def test_a_command_that_tells_the_fence_tells_the_one_it_was_written_under(make: Make, client: Redis) -> None:
    committer = make()
    before = (await committer.leaseholder.acquire()).epoch
    await client.delete(KEYS.lease)  # it runs out after the commit was put together, and is taken again for it

    await committer.commit([lambda epoch: ("RPUSH", LIST, epoch)], {})

    assert committer.lease.epoch > before
    assert await pushed(client) == [b"%d" % committer.lease.epoch]


async def test_a_lease_that_ran_out_is_not_taken_again_when_somebody_acted_meanwhile(make: Make, client: Redis) -> None:
    committer, other = make(), make()
    await committer.leaseholder.acquire()
    await expire(client)
    await other.leaseholder.acquire()
    await other.leaseholder.release()

    with pytest.raises(LeaseLost):
        await committer.commit([push("late")], {})


async def test_who_finds_the_servers_memory_gone_stands_down(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await committer.commit([push("a")], {})
    await client.flushall()

    with pytest.raises(LeaseLost):
        await committer.commit([push("b")], {})
    assert await pushed(client) == []


async def test_fences_grow_though_the_server_lost_its_memory(make: Make, client: Redis) -> None:
    first, second = make(), make()
    before = await first.leaseholder.acquire()
    await client.flushall()
    await until_async(lambda: _clock_has_passed(client, before.epoch), "a millisecond has passed")

    assert (await second.leaseholder.acquire()).epoch > before.epoch


async def _clock_has_passed(client: Redis, ms: int) -> bool:
    seconds, micros = await client.time()
    return bool(seconds * 1000 + micros // 1000 > ms + 1)


async def test_of_many_that_want_a_free_lease_one_gets_it(make: Make, client: Redis) -> None:
    crowd = [make() for _ in range(8)]
    waiting = {asyncio.create_task(committer.leaseholder.acquire()): committer for committer in crowd}

    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    winners = [waiting[task] for task in done if not task.exception()]
    assert len(winners) == 1
    while any(not task.done() for task in waiting):
        await winners[0].renew()

    refused = [task.exception() for task in waiting if waiting[task] is not winners[0]]
    assert [type(error) for error in refused] == [LeaseHeld] * 7


async def test_the_lease_says_who_acts_since_when_and_how_often_it_wrote(make: Make, client: Redis) -> None:
    committer = make()
    grant = await committer.leaseholder.acquire()
    await committer.commit([], {})

    lease = orjson.loads(await client.get(CELL.lease) or b"")

    assert lease["owner"] == "distributor:d"
    assert (lease["epoch"], lease["incarnation"], lease["commits"]) == (grant.epoch, committer.lease.incarnation, 1)
    assert lease["expires_at"] - lease["acquired_at"] > 59


async def test_a_holder_stops_acting_before_its_lease_can_end(make: Make, client: Redis) -> None:
    committer = make(lease_ms=2000)
    await committer.leaseholder.acquire()
    at_first = committer.lease.may_act

    await until_async(lambda: not committer.lease.may_act, "it stops acting")

    assert at_first
    assert await client.exists(CELL.lease)
    await committer.renew()
    assert committer.lease.may_act
