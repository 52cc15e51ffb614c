"""The quotas of tenants and of types of tasks: what they allow, and what is used of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.quotas import Quota, QuotaUse, stored_quota, told_in
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.stored import moment

__all__ = ["QuotaState", "read_quotas"]


@dataclass(frozen=True, slots=True)
class QuotaState:
    """One quota, as it is now."""

    name: str  #: `tenant:NAME` or `type:TASK_TYPE`
    allows: Quota | None  #: None: what is stored cannot be read
    in_flight: int
    held: bool  #: whether nothing more is handed out for it now
    until: datetime | None  #: when the rate lets the next one begin; None: it does, or nobody can tell

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        allows = self.allows or Quota()
        return {
            "name": self.name,
            "weight": allows.weight,
            "per_minute": allows.per_minute,
            "at_once": allows.at_once,
            "in_flight": self.in_flight,
            "held": self.held,
            "until": self.until.isoformat() if self.until else None,
        }


def _as_it_stands(name: bytes, record: bytes) -> Quota | None:
    return stored_quota(record)


async def read_quotas(
    source: Runs, coordinator_id: str, opened: Callable[[bytes, bytes], Quota | None] = _as_it_stands
) -> list[QuotaState]:
    """All quotas, by name. `opened`: what a record under a name is taken for; as it stands, whoever has written it is
    believed. What is used of them is believed in any case: it decides nothing. Raises TransportDown, ServerRefused."""
    keys = CoordinatorKeys(coordinator_id)
    [stored, text] = await source.run(("HGETALL", keys.quotas), ("HGET", keys.header, "waiting"))
    told = told_in(text).quotas
    return [
        _state(name.decode(errors="replace"), opened(name, quota), told)
        for name, quota in sorted(zip(stored[::2], stored[1::2], strict=True))
    ]


def _state(name: str, quota: Quota | None, told: dict[str, QuotaUse]) -> QuotaState:
    use = told.get(name, QuotaUse())
    until = moment(use.until_ms) if use.until_ms is not None else None
    return QuotaState(name, quota, use.in_flight, use.full or until is not None, until)
