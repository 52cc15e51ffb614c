"""What is stored in place of an agent's lease, and what has to be known to take it.

Anybody with write access to Redis may have put something else there. That counts as missing, so that one such write
stops nobody for good.
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

__all__ = ["NO_LEASE", "fencing", "granted", "held_in", "repairs"]

log = logging.getLogger(__name__)

#: Stands for a value that is no lease, so that its owner is unknown.
NO_LEASE = b"?"
#: A stored epoch further ahead of the server's clock is not ours: no peer would believe a start of that number (see
#: AHEAD_MS). Epochs begin at that clock and grow by one with each grant, so the clock outruns them.
EPOCH_AHEAD_MS = AHEAD_MS // 2


def fencing(keys: AgentKeys) -> tuple[Command, ...]:
    """The keys that have to be read, and watched, to take the lease."""
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
    """The version, and the highest epoch given out, from the last two replies to `fencing`. Foreign values do not
    count, and neither does an epoch that leaves no room for higher ones."""
    version, epoch = header if isinstance(header, list) else (None, None)
    below = now_ms + EPOCH_AHEAD_MS
    return number_in(version), max(number_in(fence, below), number_in(epoch, below))


def repairs(keys: AgentKeys, kinds: Sequence[object]) -> list[Command]:
    """The commands that delete foreign values in place of this agent's keys, beside which no commit would succeed.
    `kinds` are the replies of TYPE for `keys.types`."""
    wrong = [
        key
        for (key, kind), found in zip(keys.types.items(), kinds, strict=True)
        if isinstance(found, bytes) and found not in (kind, b"none")
    ]
    for key in wrong:
        log.warning("%s had a type that no agent gives it, and was deleted", key, extra={"action": "key_mended"})
    return [("DEL", *wrong)] if wrong else []
