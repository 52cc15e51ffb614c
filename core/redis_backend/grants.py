"""What is found where an agent's lease lies, and what has to be known to take it.

Anybody who may write to Redis may have put something else there; that counts as not there, so that one such write stops
nobody for good.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from core.langgraph_state import Lease
from core.ports import Command
from core.redis_backend.bounded_reads import fence_read, lease_read
from core.redis_backend.keys import AgentKeys
from core.signing import AHEAD_MS
from core.stored import number_in

__all__ = ["NO_LEASE", "fencing", "granted", "held_in", "mended"]

log = logging.getLogger(__name__)

#: Instead of a lease: what lies there is none, so that nobody knows whose it is.
NO_LEASE = b"?"
#: A stored epoch that is further ahead of the server's clock is nobody's: no peer would believe a start of that number
#: (see AHEAD_MS). Epochs begin at that clock and grow by one with each grant, so that it outruns them.
EPOCH_AHEAD_MS = AHEAD_MS // 2


def fencing(keys: AgentKeys) -> tuple[Command, ...]:
    """What has to be known, and watched, to take the lease."""
    return (
        ("WATCH", keys.lease, keys.fence),
        lease_read(keys.lease),
        fence_read(keys.fence),
        ("HMGET", keys.header, keys.version_field, "epoch"),
    )


def held_in(reply: Any) -> bytes:
    """What the reply to `lease_read` says: a lease; NO_LEASE, for all that is none; empty: nothing lies there."""
    if reply == b"":
        return b""
    return reply if isinstance(reply, bytes) and Lease.parse(reply) is not None else NO_LEASE


def granted(fence: object, header: object, now_ms: int) -> tuple[int, int]:
    """The version, and the highest epoch given out, by the last two replies to `fencing`. What is none of ours there
    does not count, nor does an epoch that leaves no room for higher ones."""
    version, epoch = header if isinstance(header, list) else (None, None)
    below = now_ms + EPOCH_AHEAD_MS
    return number_in(version), max(number_in(fence, below), number_in(epoch, below))


def mended(keys: AgentKeys, kinds: Sequence[object]) -> list[Command]:
    """Deletes what somebody else has put in the place of a key of this agent: no commit would succeed beside it.
    `kinds` are what TYPE says of `keys.types`."""
    wrong = [
        key
        for (key, kind), found in zip(keys.types.items(), kinds, strict=True)
        if isinstance(found, bytes) and found not in (kind, b"none")
    ]
    for key in wrong:
        log.warning("%s is of a type that none of ours gives it: deleted", key, extra={"action": "key_mended"})
    return [("DEL", *wrong)] if wrong else []
