"""What the loop stands on holds on every backend: one transaction under a lease, and an inbox that loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import LeaseHeld, LeaseLost
from core.memory_backend.faulty_connection import CALM, Faults, FaultyConnection
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.held_lease import RENEWED_ALONG_SHARE, RENEWED_SHARE
from core.redis_backend.keys import CellKeys
from core.roles import Action, Address, Role
from core.runtime.inbox import Inbox
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.step import Sending, Step
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, items
from tests.waiting import until_async

if TYPE_CHECKING:
    from core.ports import Command, OpenConnection

CELL = CellKeys(DISTRIBUTOR.agent_id)
KEYS = CELL.agent(COORDINATOR.agent_id)
CHAIN = (COORDINATOR, DISTRIBUTOR)


def a_committer(open_connection: OpenConnection, *, lease_ms: int = 60_000) -> Committer:
    return Committer(open_connection(), DISTRIBUTOR, KEYS, ServerClock(), lease_ms=lease_ms)


def an_inbox(open_connection: OpenConnection) -> Inbox:
    signing = KeyRing.from_secret(SECRET, CHAIN)
    return Inbox(
        open_connection(), DISTRIBUTOR, signing, KEYS, ServerClock(), freshness_ms=600_000, limit_bytes=1 << 20
    )


def faulty(open_connection: OpenConnection, *faults: Faults) -> OpenConnection:
    """Connections whose exchanges (and attempts to connect) meet one of `faults` after the other, then none."""
    coming: Iterator[Faults] = iter(faults)
    return lambda: FaultyConnection(open_connection, Random(1), lambda: next(coming, CALM))


async def said(open_connection: OpenConnection, *commands: Command) -> list[Any]:
    connection = open_connection()
    await connection.connect()
    replies = await connection.exchange(commands)
    await connection.close()
    return replies


class Sender:
    """The coordinator, posting to the distributor's inbox. It knows the time of the store."""

    def __init__(self, open_connection: OpenConnection) -> None:
        self._open_connection = open_connection
        self._outbox = Outbox((COORDINATOR,), KeyRing.from_secret(SECRET, (COORDINATOR,)))
        self._outbox.incarnation = 1

    async def command(self, item: bytes) -> Command:
        [[seconds, _]] = await said(self._open_connection, ("TIME",))
        step = Step()
        step.send(Sending(DISTRIBUTOR, Action.ASSIGN_TASK), item)
        [command] = self._outbox.commands(step, int(seconds) * 1000)
        return command

    async def post(self, item: bytes) -> Command:
        command = await self.command(item)
        await said(self._open_connection, command)
        return command


async def test_versions_are_contiguous_over_holders_and_fences_grow(open_connection: OpenConnection) -> None:
    first, second = a_committer(open_connection), a_committer(open_connection)
    grant = await first.leaseholder.acquire()
    versions = [await first.commit([("SET", "k", n)], {}) for n in range(3)]
    await first.leaseholder.release()
    later = await second.leaseholder.acquire()
    versions.append(await second.commit([("SET", "k", "second")], {}))

    assert (grant.version, later.version) == (0, 3)
    assert versions == [1, 2, 3, 4]
    assert later.epoch > grant.epoch


async def test_a_lease_that_is_renewed_is_refused_to_others(open_connection: OpenConnection) -> None:
    holder, other = a_committer(open_connection), a_committer(open_connection)
    await holder.leaseholder.acquire()

    async def renew() -> None:
        while True:
            await holder.renew()

    renewing = asyncio.get_running_loop().create_task(renew())
    with pytest.raises(LeaseHeld):
        await other.leaseholder.acquire()

    renewing.cancel()
    await asyncio.wait({renewing})


@pytest.mark.parametrize("share", [RENEWED_ALONG_SHARE, RENEWED_SHARE])
async def test_a_renewal_goes_along_with_plain_commands_long_before_it_is_due(
    open_connection: OpenConnection, share: float
) -> None:
    holder = a_committer(open_connection, lease_ms=900)
    await holder.leaseholder.acquire()
    [before] = await said(open_connection, ("GET", KEYS.lease))
    await until_async(lambda: holder.lease.unrenewed_share > share, "so much of the lease has passed")

    replies = await holder.run(("HGET", KEYS.header, "epoch"), ("GET", KEYS.lease))

    assert replies[0] == str(holder.lease.epoch).encode()
    assert replies[1] != before
    assert not holder.lease.renewal_due
    assert await holder.commit([("SET", "k", 1)], {}) == 1
    assert holder.conflicts == 0


async def test_who_has_lost_its_lease_writes_nothing(open_connection: OpenConnection) -> None:
    old, new = a_committer(open_connection, lease_ms=50), a_committer(open_connection)
    await old.leaseholder.acquire()
    await new.leaseholder.acquire()  # waits for the lease to run out
    await new.commit([("SET", "k", "new")], {})

    with pytest.raises(LeaseLost):
        await old.commit([("SET", "k", "old")], {})

    assert await said(open_connection, ("GET", "k")) == [b"new"]


@pytest.mark.parametrize(
    "fault", ["cut", "request_lost", "part_lost", "late", "reply_lost", "split"]
)  # fmt: skip
async def test_a_commit_happens_once_whatever_happens_to_its_connection(
    open_connection: OpenConnection, fault: str
) -> None:
    # Calm while it connects and acquires: three exchanges. Then the fault, in the exchange of the second commit.
    faults = [CALM] * 3, [CALM], [Faults(**{fault: 1.0}, max_delay_s=0.01, max_late_s=0.02, max_silence_s=0.05)]
    committer = a_committer(faulty(open_connection, *(faults_of_it for some in faults for faults_of_it in some)))
    await committer.leaseholder.acquire()

    versions = [await committer.commit([("HINCRBY", "h", "n", 1)], {}) for _ in range(4)]

    assert versions == [1, 2, 3, 4]
    assert await said(open_connection, ("HGET", "h", "n")) == [b"4"]
    assert await said(open_connection, ("HGET", CELL.header, "distributor_version")) == [b"4"]


async def test_an_inbox_is_read_in_order_and_what_was_settled_is_gone(open_connection: OpenConnection) -> None:
    sender, inbox, committer = Sender(open_connection), an_inbox(open_connection), a_committer(open_connection)
    await committer.leaseholder.acquire()
    for number in range(20):
        await sender.post(b"%d" % number)

    received = [*inbox.verify(await inbox.read(), committer.lease.incarnation)]
    received += inbox.verify(await inbox.read(), committer.lease.incarnation)
    await committer.commit(inbox.settle(0), {})

    assert [items(message) for message in received] == [[number] for number in range(20)]
    assert await said(open_connection, ("XLEN", KEYS.inbox)) == [0]


async def test_what_was_not_settled_comes_again_and_what_was_posted_twice_counts_once(
    open_connection: OpenConnection,
) -> None:
    sender, committer = Sender(open_connection), a_committer(open_connection)
    await committer.leaseholder.acquire()
    command = await sender.post(b'"task"')
    first = an_inbox(open_connection)
    assert len(first.verify(await first.read(), committer.lease.incarnation)) == 1  # its reader dies before it commits

    await said(open_connection, command)
    second = an_inbox(open_connection)
    received = second.verify(await second.read(), committer.lease.incarnation)
    await committer.commit(second.settle(0), {})

    assert [items(message) for message in received] == [["task"]]
    assert second.rejected == {"replayed": 1}
    assert await said(open_connection, ("XLEN", KEYS.inbox), ("XLEN", KEYS.quarantine)) == [0, 1]


async def test_a_message_of_nobody_is_kept_as_evidence_and_never_acted_on(open_connection: OpenConnection) -> None:
    inbox, committer = an_inbox(open_connection), a_committer(open_connection)
    await committer.leaseholder.acquire()
    stranger = Address(Role.WORKER, "stranger")
    await said(open_connection, ("XADD", KEYS.inbox, "*", "from", str(stranger), "kid", "0", "sig", "0", "body", "{}"))

    received = inbox.verify(await inbox.read(), committer.lease.incarnation)
    await committer.commit(inbox.settle(0), {})

    [length, [[_, evidence]], counted] = await said(
        open_connection, ("XLEN", KEYS.inbox), ("XRANGE", KEYS.quarantine, "-", "+"),
        ("HGET", KEYS.header, "rejected:unknown_key"),
    )  # fmt: skip
    assert received == []
    assert (length, counted) == (0, b"1")
    assert evidence[evidence.index(b"from") + 1] == b"worker:stranger"
