"""Reads dead letters and rejected messages, without acting on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.config.settings import A2ASecrets, RedisConfig
from core.errors import BadSignature, ConfigError, PeerError, UnknownKey
from core.operations.task_records import Unreadable, read_records
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.sealing import bare
from core.signing import Signed
from core.stored import moment, pairs
from core.tasks import Task
from core.wiring import keys_for

__all__ = [
    "RejectedMessage", "dead_letter_ids", "dead_letters", "is_dead_letter", "original_message", "purge_rejected",
    "rejected_message", "rejected_messages", "signature_found",
]  # fmt: skip

#: The name of a rejected message consists of its reader and its entry id there.
REJECTED = re.compile(r"(coordinator|distributor):([^/]+)/(\d+-\d+)")


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A message that its reader rejected. Its content is unproven, which may be the reason."""

    name: str  #: READER/ENTRY, as in `coordinator:coordinator-1/1700000000000-0`
    at: datetime  #: when it was rejected, on the server's clock
    reason: str  #: bad_signature | unknown_key | revoked | stale | replayed | not_permitted | malformed | too_large
    detail: str
    sender: str
    key_id: str
    inbox: str  #: the stream that it came in
    entry: str  #: its id there
    body: str  #: the beginning of it


async def dead_letters(source: Runs, coordinator_id: str, limit: int) -> list[Task | Unreadable]:
    """The tasks that became dead letters last, newest first."""
    keys = CoordinatorKeys(coordinator_id)
    [ids] = await source.look(("ZREVRANGE", keys.dead, 0, limit - 1))
    if isinstance(ids, Exception):
        return [Unreadable(keys.dead, f"{ids}")]
    return await read_records(source, keys.tasks, ids) if ids else []


async def dead_letter_ids(source: Runs, coordinator_id: str) -> list[str]:
    """The ids of all dead letters, oldest first."""
    [ids] = await source.run(("ZRANGE", CoordinatorKeys(coordinator_id).dead, 0, -1))
    return [task_id.decode() for task_id in ids]


async def is_dead_letter(source: Runs, coordinator_id: str, task_id: str) -> bool:
    [died_ms] = await source.run(("ZSCORE", CoordinatorKeys(coordinator_id).dead, task_id))
    return died_ms is not None


async def original_message(source: Runs, coordinator_id: str, task: Task) -> Signed | None:
    """The message that submitted a task, as it was signed; None: there was none, or it is not kept."""
    if task.submission is None:
        return None
    [packed] = await source.look(("HGET", CoordinatorKeys(coordinator_id).submissions, task.submission))
    try:
        return Signed.unpack(bare(packed)) if isinstance(packed, bytes) else None
    except PeerError:
        return None


def signature_found(signed: Signed, coordinator_id: str, a2a: A2ASecrets, redis: RedisConfig) -> str:
    """`valid`, or why not. It is judged again, with the secret that is configured here now."""
    try:
        keys_for((Address.of(Role.COORDINATOR, coordinator_id),), a2a, redis).verify(signed)
    except (UnknownKey, BadSignature, ConfigError) as error:
        if a2a.agent_key or isinstance(error, ConfigError):
            return "cannot be checked here: that takes A2A_TOKEN_SECRET"
        if isinstance(error, UnknownKey):
            return f"cannot be checked any more: key {signed.key_id} is neither the present nor the previous one"
        return "does not match: the message was changed since"
    return "valid"


async def rejected_messages(
    source: Runs, coordinator_id: str, distributor_ids: Sequence[str], limit: int
) -> list[RejectedMessage]:
    """The last messages that the coordinator, these distributors and their workers rejected, newest first; if those of
    one cannot be read, a line that says so."""
    streams = _quarantines(coordinator_id, distributor_ids)
    replies = await source.look(*(("XREVRANGE", stream, "+", "-", "COUNT", limit) for stream in streams.values()))
    found = []
    for reader, entries in zip(streams, replies, strict=True):
        if isinstance(entries, Exception):
            entries = [(b"0-0", [b"reason", b"unreadable", b"detail", f"{entries}".encode()])]
        found += [_message(reader, *entry) for entry in entries]
    return sorted(found, key=lambda message: message.at, reverse=True)[:limit]


async def purge_rejected(
    source: Runs, coordinator_id: str, distributor_ids: Sequence[str], names: Sequence[str] | None
) -> int:
    """Forgets the rejected messages of these names, or with None all that the coordinator and these distributors keep.
    Returns how many there were. Raises ServerRefused."""
    if names is None:
        streams = _quarantines(coordinator_id, distributor_ids).values()
        return sum(await source.run(*(("XTRIM", stream, "MAXLEN", 0) for stream in streams)))
    named = [found.groups() for name in names if (found := REJECTED.fullmatch(name))]
    drops = [("XDEL", _quarantine(role, agent_id, coordinator_id), entry) for role, agent_id, entry in named]
    return sum(await source.run(*drops))


def _quarantines(coordinator_id: str, distributor_ids: Sequence[str]) -> dict[str, str]:
    """The quarantine keys, by the agent that rejects into them."""
    streams = {f"coordinator:{coordinator_id}": _quarantine(Role.COORDINATOR, coordinator_id, coordinator_id)}
    for distributor_id in distributor_ids:
        streams[f"distributor:{distributor_id}"] = _quarantine(Role.DISTRIBUTOR, distributor_id, coordinator_id)
    return streams


async def rejected_message(source: Runs, coordinator_id: str, name: str) -> RejectedMessage | None:
    """The rejected message of that name; None: the name is malformed, or nothing is kept under it."""
    parts = REJECTED.fullmatch(name)
    if parts is None:
        return None
    role, agent_id, entry = parts.groups()
    [entries] = await source.look(("XRANGE", _quarantine(role, agent_id, coordinator_id), entry, entry))
    return _message(f"{role}:{agent_id}", *entries[0]) if entries and isinstance(entries, list) else None


def _quarantine(role: str, agent_id: str, coordinator_id: str) -> str:
    if role == Role.COORDINATOR:
        return CoordinatorKeys(agent_id).agent.quarantine
    return CellKeys(agent_id).agent(coordinator_id).quarantine


def _message(reader: str, entry_id: bytes, flat: Sequence[bytes]) -> RejectedMessage:
    named = pairs(flat)

    def text(field: bytes) -> str:
        return named.get(field, b"").decode(errors="replace")

    return RejectedMessage(
        name=f"{reader}/{entry_id.decode()}",
        at=moment(int(entry_id.partition(b"-")[0])),
        reason=text(b"reason"),
        detail=text(b"detail"),
        sender=text(b"from"),
        key_id=text(b"kid"),
        inbox=text(b"inbox"),
        entry=text(b"entry"),
        body=text(b"body"),
    )
