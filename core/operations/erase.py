"""Removes from Redis a hierarchy that was made for one job."""

from __future__ import annotations

from core.redis_backend.keys import ACTIVE
from core.redis_backend.shared_state import Runs

__all__ = ["erase_hierarchy"]

#: Number of keys that are looked at, or removed, at once.
PAGE = 500


async def erase_hierarchy(source: Runs, coordinator_id: str) -> int:
    """Removes every key of a coordinator and of the distributors that are named after it, `ID.distributor-1` and so on.
    Returns how many there were. The hierarchy must have ended, since a running agent goes on writing. Raises
    TransportDown."""
    [members] = await source.run(("SMEMBERS", ACTIVE))
    gone = [member for member in members if member.split(b"/")[0] == f"coordinator:{coordinator_id}".encode()]
    if gone:
        await source.run(("SREM", ACTIVE, *gone))
    erased = 0
    for pattern in (f"{{coordinator:{coordinator_id}}}:*", f"*shared:distributor:{coordinator_id}.distributor-*"):
        cursor = b"0"
        while True:
            [[cursor, keys]] = await source.run(("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE))
            if keys:
                await source.run(("DEL", *keys))
                erased += len(keys)
            if cursor == b"0":
                break
    return erased
