"""What an operator does about quotas: see docs/fairness.md."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from core.client.requests import Refused
from core.errors import BadTask
from core.quotas import QuotaChange, quota_of
from core.reports import item_of
from core.roles import Action
from core.runtime.portal import Resident, operation

__all__ = ["QuotaSetter"]


class QuotaSetter(Resident):
    """A part of AgentClient: it sets the quotas of tenants and of types of tasks."""

    @abstractmethod
    async def _ask(self, action: Action, items: Iterable[bytes], timeout_s: float) -> Refused: ...

    @operation
    async def set_quota(
        self, name: str, weight: int | None = None, per_minute: int | None = None, at_once: int | None = None,
        timeout_s: float = 30.0,
    ) -> bool:  # fmt: skip
        """Sets what `tenant:NAME` or `type:TASK_TYPE` may have, in place of what was set before: its weight among
        tenants that wait, how many of its tasks begin in a minute, and how many are in flight at once. Returns True:
        the coordinator has recorded it, and it holds.

        Raises NotPermitted: this client is no operator. BadTask: the quota is malformed, says nothing, or there are too
        many. TaskTimeout, TransportDown, ServerRefused, PeerError: as `submit`; setting it again is safe."""
        change = quota_of(name, weight=weight, per_minute=per_minute, at_once=at_once)
        if change.quota is None:
            raise BadTask(f"quota {name!r} limits nothing: give weight, per_minute or at_once, or remove it")
        return await self._set_quota(change, timeout_s)

    @operation
    async def remove_quota(self, name: str, timeout_s: float = 30.0) -> bool:
        """Removes a quota; nothing happens if there is none. Returns True once that is recorded. Raises as
        `set_quota`."""
        return await self._set_quota(quota_of(name), timeout_s)

    async def _set_quota(self, change: QuotaChange, timeout_s: float) -> bool:
        for refusal in await self._ask(Action.SET_QUOTA, [item_of(change)], timeout_s):
            raise BadTask(refusal.reason)
        return True
