"""The one transaction: lease, fence, versions, and commits whose outcome nobody was told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from core.config.settings import RedisConfig
from core.errors import LeaseLost, ServerRefused, StateConflict, TransportDown
from core.ports import Command
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_client import Wire
from tests.integration.committers import (
    CELL,
    KEYS,
    LIST,
    ME,
    Make,
    Redis,
    connection_of,
    expire,
    header,
    history,
    push,
    pushed,
)  # fmt: skip
from tests.redis_server import RedisServer
from tests.waiting import until_async

# ---- committing ----


async def test_a_commit_writes_all_it_was_given_under_the_next_version(make: Make, client: Redis) -> None:
    committer = make()
    grant = await committer.leaseholder.acquire()

    versions = [await committer.commit([push(name)], {name: ("pending",)}) for name in ("a", "b", "c")]

    assert (grant.version, versions) == (0, [1, 2, 3])
    assert await pushed(client) == [b"a", b"b", b"c"]
    assert await header(client) == (3, grant.epoch)
    assert await history(client) == [(1, grant.epoch), (2, grant.epoch), (3, grant.epoch)]


async def test_a_commit_sends_nothing_twice_and_asks_for_nothing_it_does_not_use(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.config_resetstat()

    await committer.commit([("HSET", KEYS.header, "status", "busy"), push("a")], {"t": ("pending",)})

    assert await client.hget(KEYS.header, "status") == b"busy"
    calls = {name.removeprefix("cmdstat_"): told["calls"] for name, told in (await client.info("commandstats")).items()}
    for look in ("config|resetstat", "hget", "info"):
        calls.pop(look, None)
    transaction = ("multi", "set", "hset", "xadd", "publish", "rpush", "exec")
    assert calls == dict.fromkeys((*transaction, "watch", "getrange"), 1)


async def test_a_successor_goes_on_from_the_stored_version_under_a_higher_fence(make: Make, client: Redis) -> None:
    first = make()
    before = await first.leaseholder.acquire()
    await first.commit([], {})
    await first.leaseholder.release()

    second = make()
    after = await second.leaseholder.acquire()

    assert after.version == 1
    assert after.epoch > before.epoch
    assert await second.commit([], {}) == 2


async def test_a_commit_tells_who_listens_of_the_new_version(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    async with client.pubsub() as channel:
        await channel.subscribe(CELL.changes)
        await until_async(channel.get_message, "the subscription is confirmed")

        await committer.commit([], {})

        message = await until_async(channel.get_message, "a hint comes")
    assert message["data"] == b"distributor 1"


async def test_commits_of_several_tasks_are_served_one_after_the_other_without_a_gap(make: Make, client: Redis) -> None:
    committer = make()
    grant = await committer.leaseholder.acquire()

    versions = await asyncio.gather(*[committer.commit([push(str(n))], {str(n): ("pending",)}) for n in range(20)])

    assert sorted(versions) == list(range(1, 21))
    assert await history(client) == [(version, grant.epoch) for version in range(1, 21)]
    assert await header(client) == (20, grant.epoch)
    assert len(await pushed(client)) == 20


async def test_every_commit_renews_the_lease(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.pexpire(CELL.lease, 5_000)

    await committer.commit([], {})

    assert await client.pttl(CELL.lease) > 50_000


async def test_a_renewal_changes_no_version(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.pexpire(CELL.lease, 5_000)

    await committer.renew()

    assert await client.pttl(CELL.lease) > 50_000
    assert committer.lease.version == (await header(client))[0] == 0


async def test_what_redis_refuses_was_not_written_and_goes_through_once_it_can(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ServerRefused, match="OOM"):
            await committer.commit([push("a")], {})
    finally:
        await client.config_set("maxmemory", "0")

    assert await pushed(client) == []
    assert await committer.commit([push("a")], {}) == 1


async def test_a_lease_that_ran_out_while_redis_refused_everything_is_taken_again(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ServerRefused):
            await committer.renew()
        await expire(client)
    finally:
        await client.config_set("maxmemory", "0")

    assert await committer.commit([push("a")], {}) == 1


async def test_a_key_of_another_type_is_a_conflict_and_names_it(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.set(LIST, "no list")

    with pytest.raises(StateConflict, match=f"{LIST}.*another application.*RENAME"):
        await committer.commit([push("a")], {})


# ---- broken connections ----


async def test_a_connection_that_is_cut_between_two_commits_is_not_noticed(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await committer.commit([push("a")], {})
    await client.client_kill_filter(_id=str(await connection_of(client, committer)))

    assert await committer.commit([push("b")], {}) == 2
    assert await pushed(client) == [b"a", b"b"]


async def test_a_commit_that_happened_though_the_connection_broke_is_not_repeated(make: Make, client: Redis) -> None:
    """The server ends the connection from within the transaction: it is carried out, and nobody hears of it."""
    committer = make()
    await committer.leaseholder.acquire()
    number = await connection_of(client, committer)

    version = await committer.commit([push("a"), ("CLIENT", "KILL", "ID", number, "SKIPME", "no")], {"t": ("pending",)})

    assert version == 1
    assert await pushed(client) == [b"a"]
    assert await committer.commit([push("b")], {"t": ("pending",)}) == 2
    assert [version for version, _ in await history(client)] == [1, 2]


async def test_a_commit_that_did_not_happen_when_the_connection_broke_is_sent_again(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    number = await connection_of(client, committer)
    # While the server carries out nothing, the commit is sent and its connection cut: its bytes are thrown away.
    await client.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    committing = asyncio.create_task(committer.commit([push("a")], {}))
    await until_async(lambda: _blocked(client, number), "the commit has been sent")

    await client.client_kill_filter(_id=str(number))
    await client.execute_command("CLIENT", "UNPAUSE")

    assert await committing == 1
    assert await pushed(client) == [b"a"]


async def _blocked(client: Redis, number: int) -> bool:
    listed = await client.client_list()
    return any(
        connection["id"] == str(number) and ("b" in connection["flags"] or connection["cmd"].startswith("exec"))
        for connection in listed
    )


class BreaksOnce(Wire):
    """A connection that breaks as soon as its owner has heard that the lease is its own, and watches it. Its owner was
    stopped in that moment for so long that another process took the lease."""

    def __init__(self, redis: RedisConfig) -> None:
        super().__init__(redis)
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def exchange(self, commands: Sequence[Command], **limits: Any) -> list[Any]:
        replies = await super().exchange(commands, **limits)
        if self.meanwhile and commands[0] == ("UNWATCH",):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
            await self.close()
        return replies


async def test_a_watch_that_went_with_its_connection_guards_nothing_so_nothing_is_written(
    make: Make, client: Redis, redis_config: RedisConfig
) -> None:
    wire = BreaksOnce(redis_config)
    holder = Committer(wire, ME, KEYS, ServerClock(), lease_ms=60_000)
    await holder.leaseholder.acquire()
    successor = make()

    async def taken() -> None:
        await expire(client)
        await successor.leaseholder.acquire()

    await wire.close()
    wire.meanwhile = taken
    with pytest.raises(LeaseLost):
        await holder.commit([push("late")], {})

    assert await pushed(client) == []
    assert await successor.commit([push("mine")], {}) == 1
    await wire.close()


async def test_who_finds_that_the_server_has_lost_what_it_committed_writes_nothing_more(
    make: Make, client: Redis
) -> None:
    """Also not by what comes right after, over a connection on which the lease is still watched."""
    committer = make()
    await committer.leaseholder.acquire()
    for name in ("a", "b", "c"):
        await committer.commit([push(name)], {})
    await client.hset(KEYS.header, KEYS.version_field, 1)  # as after a power loss
    await committer.close()

    for _ in range(3):
        with pytest.raises(LeaseLost):
            await committer.commit([push("late")], {})

    assert await pushed(client) == [b"a", b"b", b"c"]
    assert (await header(client))[0] == 1


async def test_a_server_that_is_busy_with_a_script_is_waited_for(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    await client.config_set("lua-time-limit", "10")
    stuck = asyncio.create_task(client.eval("while true do end", 0))
    try:
        await until_async(lambda: _is_busy(client), "the script holds the server")
        committing = asyncio.create_task(committer.commit([push("a")], {}))
        with pytest.raises(TransportDown, match="BUSY"):
            await committer.run(("GET", LIST))
    finally:
        await until_async(lambda: _script_killed(client), "the script is killed")
        await client.config_set("lua-time-limit", "5000")

    assert await committing == 1
    assert await pushed(client) == [b"a"]
    with pytest.raises(RedisError):
        await stuck


async def _is_busy(client: Redis) -> bool:
    try:
        await client.get(LIST)
    except ResponseError as error:
        return "BUSY" in str(error)
    return False


async def _script_killed(client: Redis) -> bool:
    with suppress(RedisError):
        await client.execute_command("SCRIPT", "KILL")
    try:
        await client.get(LIST)
    except ResponseError:
        return False
    return True


async def test_a_server_that_became_a_replica_is_left_for_whoever_the_name_leads_to(make: Make, client: Redis) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    before = await connection_of(client, committer)
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(ServerRefused, match="READONLY"):
            await committer.commit([push("a")], {})
    finally:
        await client.execute_command("REPLICAOF", "NO", "ONE")

    assert await committer.commit([push("a")], {}) == 1
    assert await connection_of(client, committer) != before


async def test_what_redis_refuses_to_tell_is_no_answer(make: Make, client: Redis) -> None:
    committer = make()
    await client.set(LIST, "no number")

    with pytest.raises(ServerRefused, match=r"INCR.*not an integer"):
        await committer.run(("GET", LIST), ("INCR", LIST))


@pytest.mark.parametrize("happens", [True, False])
async def test_a_commit_that_was_cancelled_is_not_taken_for_the_next_one(
    make: Make, client: Redis, redis_server: RedisServer, happens: bool
) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    number = await connection_of(client, committer)
    if happens:  # the server has its bytes, and works them off later
        os.kill(redis_server.pid, signal.SIGSTOP)
    else:  # the server throws them away with the connection
        await client.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    committing = asyncio.create_task(committer.commit([push("cancelled")], {}))
    await asyncio.sleep(0)
    if not happens:
        await until_async(lambda: _blocked(client, number), "the commit has been sent")
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    if happens:
        os.kill(redis_server.pid, signal.SIGCONT)
    else:
        await client.execute_command("CLIENT", "UNPAUSE")

    version = await committer.commit([push("next")], {})

    assert await pushed(client) == ([b"cancelled", b"next"] if happens else [b"next"])
    assert version == (2 if happens else 1)


async def test_a_commit_waits_for_redis_to_come_back(make: Make, client: Redis) -> None:
    told: list[bool] = []
    committer = make(on_transport=lambda up, why: told.append(up))
    await committer.leaseholder.acquire()
    number = await connection_of(client, committer)
    await client.config_set("maxclients", "1")  # nobody else gets in
    await client.client_kill_filter(_id=str(number))
    del told[:]

    committing = asyncio.create_task(committer.commit([push("a")], {}))
    await until_async(lambda: told, "it has noticed")
    assert not any(told)
    await client.config_set("maxclients", "10000")

    assert await committing == 1
    assert told[-1] is True
    assert await pushed(client) == [b"a"]


async def test_who_closes_does_not_wait_for_redis(make: Make, client: Redis, redis_server: RedisServer) -> None:
    committer = make()
    await committer.leaseholder.acquire()
    redis_server.kill()
    committing = asyncio.create_task(committer.commit([push("a")], {}))

    committer.connection.stop_waiting()

    with pytest.raises(TransportDown):
        await committing
