"""Reads what is known at the top of a hierarchy: how many tasks there are, and which agents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.errors import MalformedMessage, ServerRefused
from core.operations.stored_replies import StoredReplies
from core.redis_backend.keys import ACTIVE, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.stored import shown

__all__ = ["Chain", "Top", "chains_in", "read_top"]

_BELOW = [Role.DISTRIBUTOR, Role.WORKER]

#: An agent, with those above it: from the coordinator down.
Chain = tuple[Address, ...]


class Top(NamedTuple):
    """The coordinator's counts, and which agents there are."""

    now_ms: int  #: the server's clock
    open_tasks: int
    ended_tasks: int
    dead_letters: int
    asking: int
    beats: dict[bytes, bytes]  #: packed heartbeats of distributors, by their names
    members: Sequence[bytes]  #: the agents of all hierarchies, as they have written themselves down


async def read_top(source: Runs, coordinator_id: str, found: StoredReplies, *, with_members: bool) -> Top:
    """One round trip. Without members, its cost grows with the distributors alone. Raises TransportDown,
    ServerRefused."""
    top = CoordinatorKeys(coordinator_id)
    of_tasks = (top.open, top.ended, top.dead, top.questions)
    time_reply, opened, ended, dead, questions, beats, *listed = await source.look(
        ("TIME",),
        *(("ZCARD", key) for key in of_tasks),
        ("HGETALL", top.heartbeats),
        *([("SMEMBERS", ACTIVE)] if with_members else []),
    )
    if isinstance(time_reply, Exception):
        raise ServerRefused(f"Redis refused a read: {time_reply}")
    now_ms = int(time_reply[0]) * 1000 + int(time_reply[1]) // 1000
    open_tasks, ended_tasks, dead_letters, asking = map(found.count, (opened, ended, dead, questions), of_tasks)
    members = [member for reply in listed for member in found.several(reply, ACTIVE)]
    beating = found.hash(beats, top.heartbeats)
    return Top(now_ms, open_tasks, ended_tasks, dead_letters, asking, beating, members)


def chains_in(coordinator_id: str, known: Top, found: StoredReplies) -> Iterator[Chain]:
    """The agents below that coordinator that have written themselves down, or are distributors with a heartbeat. One
    may come several times, and its parents may be missing."""
    top = Address(Role.COORDINATOR, coordinator_id)
    named = str(top).encode()
    for member in (*known.members, *(b"%b/distributor:%b" % (named, name) for name in known.beats)):
        parts = member.split(b"/")
        try:
            if parts[0] != named:
                Address.parse(parts[0])  # another hierarchy's
                continue
            below = [Address.parse(part) for part in parts[1:]]
        except MalformedMessage:
            found.misses(f"an agent of the name {shown(member)!r}")
            continue
        if [address.role for address in below] == _BELOW[: len(below)]:
            yield top, *below
