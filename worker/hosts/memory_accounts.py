"""The budgets of tasks where the store runs no scripts: what those do (see core.redis_backend.budget_scripts) is done
here, to the same ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import msgspec

from core.budget import Grants
from core.config.model_prices import Prices
from core.ports import Connection
from core.redis_backend.budget_scripts import RENEW, RESERVE, SETTLE
from core.redis_backend.clock import monotonic_s
from worker.hosts.accounts import Accounts

__all__ = ["MemoryAccounts", "NoLimits"]

Ledger = dict[str, Any]
_unpacked = msgspec.msgpack.decode


class MemoryAccounts(Accounts):
    """The accounts of all workers of a store, in whose process they are."""

    def __init__(self, open_connection: Callable[[], Connection], key: str, prices: Prices) -> None:
        super().__init__(open_connection, key, prices)
        self._one_by_one = asyncio.Lock()

    async def close(self) -> None:
        """Does nothing: others may go on with it."""

    async def _run(self, script: str, grants: Grants, *arguments: str | int | bytes) -> Any:
        change, name = CHANGES[script], grants[0][0]
        async with self._one_by_one:
            [packed] = await self._connection.run(("HGET", self._key, name))
            ledger: Ledger = _unpacked(packed) if packed else {"spent": {}, "open": {}}
            reply = change(ledger, monotonic_s() * 1000, *arguments)
            if reply in (None, [b"reserved"]):
                await self._connection.run(("HSET", self._key, name, msgspec.msgpack.encode(ledger)))
        return reply


class NoLimits:
    """For a store that keeps no limits of models: every call may be made."""

    async def any_known(self) -> bool:
        return False

    async def take(self, asked: object) -> str:
        return ""

    async def leave(self, call_id: str) -> None: ...

    async def settle_call(self, end: object) -> None: ...

    async def close(self) -> None: ...


def _reserved(ledger: Ledger, now_ms: float, *given: Any) -> list[Any]:
    """As the script RESERVE."""
    task_id, attempt, call_id, call_ms, *packed, silent_ms = given
    need, got, budgets = map(_unpacked, packed)
    under_way, spent = ledger["open"], ledger["spent"]
    if call_id in under_way:
        return [b"reserved"]
    for other, held in list(under_way.items()):
        if (held["task"] == task_id and held["attempt"] < attempt) or now_ms - held["at"] > call_ms:
            del under_way[other]
    heard = [held for held in under_way.values() if now_ms - held["at"] <= silent_ms]
    waits = False
    for budget_id, limits in budgets:
        used = spent.get(budget_id, [0, 0, 0])
        for kind, limit in enumerate(limits):
            left = limit - used[kind] if limit >= 0 else inf
            if need[kind] > left:
                if kind == 0 or need[kind] > left + _returnable(heard, budget_id, kind):
                    return [budget_id.encode(), kind, used[kind]]
                waits = True
            got[kind] = int(min(got[kind], left))
    if waits:
        return [b"wait"]
    ids = [budget_id for budget_id, _ in budgets]
    _add(ledger, ids, got)
    under_way[call_id] = {"task": task_id, "attempt": attempt, "at": now_ms, "got": got, "ids": ids}
    return [b"reserved"]


def _settled(ledger: Ledger, now_ms: float, call_id: Any, told: Any) -> None:
    """As the script SETTLE."""
    if held := ledger["open"].pop(call_id, None):
        used = _unpacked(told) if told else held["got"]
        _add(ledger, held["ids"], [after - before for after, before in zip(used, held["got"], strict=True)])


def _renewed(ledger: Ledger, now_ms: float, call_ids: Any) -> None:
    """As the script RENEW."""
    for call_id in _unpacked(call_ids):
        if held := ledger["open"].get(call_id):
            held["at"] = now_ms


CHANGES: dict[str, Callable[..., list[Any] | None]] = {RESERVE: _reserved, SETTLE: _settled, RENEW: _renewed}


def _returnable(under_way: Iterable[Ledger], budget_id: str, kind: int) -> int:
    """What calls under way may leave at most."""
    return sum(held["got"][kind] for held in under_way if budget_id in held["ids"])


def _add(ledger: Ledger, budget_ids: list[str], parts: list[int]) -> None:
    for budget_id in budget_ids:
        before = ledger["spent"].get(budget_id, [0, 0, 0])
        ledger["spent"][budget_id] = [sum(both) for both in zip(before, parts, strict=True)]
