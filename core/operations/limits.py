"""The limits of models of a fleet: what they allow, what is left, and who waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from core.errors import UserError
from core.model_limits import Bucket, Rates, StoredRates, stored_rates
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs

__all__ = ["LimitState", "freeze_limit", "read_limits", "remove_limit", "set_limit", "waits_at"]

#: How far is looked for a task among those that wait.
LIMITS_LOOKED_AT, PLACES_LOOKED_AT = 50, 10_000
#: How many of those that wait are named.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit, as it is now."""

    name: str
    allows: StoredRates | None  #: None: what is stored cannot be read
    requests_left: int | None  #: None: not limited
    tokens_left: int | None  #: below 0: as many were used too many
    frozen_ms: int  #: for how long nothing is let through
    under_way: int  #: calls that it has let through and that have not ended
    waiting: int  #: calls that wait
    first: tuple[str, ...]  #: the tasks of those that are first in line

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


async def read_limits(source: Runs, coordinator_id: str) -> list[LimitState]:
    """All limits, by name. Raises TransportDown, ServerRefused."""
    keys = CoordinatorKeys(coordinator_id)
    [stored, time] = await source.run(("HGETALL", keys.limits), ("TIME",))
    now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
    states = []
    for name, text in sorted(zip(stored[::2], stored[1::2], strict=True)):
        states.append(await _state(source, keys, name.decode(errors="replace"), text, now_ms))
    return states


async def _state(source: Runs, keys: CoordinatorKeys, name: str, text: bytes, now_ms: int) -> LimitState:
    _, bucket, line, calls, _ = keys.limit(name)
    fields, waiting, under_way, first = await source.run(
        ("HMGET", bucket, "requests", "tokens", "at", "frozen"), ("ZCARD", line), ("ZCARD", calls),
        ("ZRANGE", line, 0, SHOWN - 1),
    )  # fmt: skip
    requests, tokens, at, frozen = (_number(field) for field in fields)
    rates = stored_rates(text)
    since_ms = 0 if at is None else now_ms - at
    return LimitState(
        name,
        rates,
        _left(rates.requests_per_minute if rates else None, requests, since_ms),
        _left(rates.tokens_per_minute if rates else None, tokens, since_ms),
        max(0, int((frozen or 0) - now_ms)),
        under_way,
        waiting,
        tuple(member.decode(errors="replace").split(" ")[-1] for member in first),
    )


async def waits_at(source: Runs, coordinator_id: str, task_id: str) -> str:
    """Which limit the calls of a task wait for, as the end of a sentence; empty: none, as far as can be read."""
    keys = CoordinatorKeys(coordinator_id)
    [names] = await source.look(("HKEYS", keys.limits))
    if not isinstance(names, list):
        return ""
    for name in [each.decode(errors="replace") for each in names[:LIMITS_LOOKED_AT]]:
        [line] = await source.look(("ZRANGE", keys.limit(name)[2], 0, PLACES_LOOKED_AT - 1))
        tasks = [member.split(b" ")[-1] for member in line] if isinstance(line, list) else []
        if task_id.encode() in tasks:
            before = tasks.index(task_id.encode())
            return f"it waits for limit {name!r}, behind {before} call(s): `agents limits show {name}`"
    return ""


def _left(per_minute: int | None, level: float | None, since_ms: float) -> int | None:
    if per_minute is None:
        return None
    bucket = Bucket(per_minute)
    bucket.level = bucket.full if level is None else level
    bucket.fill(max(0.0, since_ms))
    return int(bucket.level)


def _number(field: bytes | None) -> float | None:
    try:
        return float(field or b"")
    except ValueError:
        return None


async def set_limit(source: Runs, coordinator_id: str, name: str, rates: Rates) -> None:
    """Sets what a limit allows, whatever code says; workers know it within a few seconds."""
    await source.run(("HSET", CoordinatorKeys(coordinator_id).limits, name, msgspec.json.encode(rates)))


async def remove_limit(source: Runs, coordinator_id: str, name: str) -> bool:
    """Whether there was such a limit. Those that wait for it go on."""
    [removed] = await source.run(("HDEL", CoordinatorKeys(coordinator_id).limits, name))
    return bool(removed)


async def freeze_limit(source: Runs, coordinator_id: str, name: str, for_ms: int) -> None:
    """Lets nothing through for so long; 0: lets calls through again. Raises UserError: there is no such limit."""
    keys = CoordinatorKeys(coordinator_id)
    [stored, time] = await source.run(("HGETALL", keys.limits), ("TIME",))
    names = [each.decode(errors="replace") for each in stored[::2]]
    if name not in names:
        known = f"there are {', '.join(sorted(names))}" if names else f"`agents limits set {name}` makes it"
        raise UserError(f"there is no limit {name!r}; {known}")
    until_ms = int(time[0]) * 1000 + int(time[1]) // 1000 + for_ms if for_ms else 0
    await source.run(("HSET", keys.limit(name)[1], "frozen", until_ms))
