"""What a client does about schedules."""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from core.client.threads import ThreadUser
from core.errors import BadSchedule, TaskTimeout, TransportDown, UnknownSchedule
from core.reports import ScheduleOf, SchedulesWanted, item_of
from core.roles import Action
from core.runtime.portal import Resident, operation
from core.schedules import Schedule

__all__ = ["ClientSchedules", "ScheduleUser"]


class ScheduleUser(ThreadUser):
    """A part of AgentClient: it uses schedules."""

    _maybe_removed: set[str]  #: the schedules whose removal may have been carried out, or not

    @property
    def schedules(self) -> ClientSchedules:
        """The schedules of this client, in whatever session they were set; an operator sees and changes all."""
        return ClientSchedules(self)

    async def _listed(self, timeout_s: float, **wanted: Any) -> tuple[dict[str, Any], ...]:
        """The records of one listing."""
        listing = secrets.token_hex(8)
        self._listings[listing] = ()
        try:
            item = item_of(SchedulesWanted(listing=listing, **wanted))
            await self._ask(Action.LIST_SCHEDULES, [item], timeout_s)
            return self._listings[listing]
        finally:
            del self._listings[listing]


class ClientSchedules(Resident):
    """The schedules of a client: `client.schedules.set(schedule)`, or `await client.schedules.set.aio(schedule)`.

    All calls raise TaskTimeout, TransportDown, ServerRefused and PeerError as `AgentClient.submit`; after any of them,
    asking again is safe. A schedule stays when its client is gone."""

    def __init__(self, client: ScheduleUser) -> None:
        self._client = client

    @operation
    async def set(self, schedule: Schedule, timeout_s: float = 30.0) -> None:
        """Sets a schedule, in the place of one of the same name. It returns when that is recorded. The same once more
        changes nothing; only another timing begins anew. Raises BadSchedule, with the reason: nothing has changed."""
        self._client._maybe_removed.discard(schedule.name)
        for refusal in await self._client._ask(Action.SET_SCHEDULE, [schedule.given.to_json()], timeout_s):
            raise BadSchedule(refusal.reason)

    @operation
    async def get(self, name: str, timeout_s: float = 30.0) -> Schedule:
        """The schedule of that name. Raises UnknownSchedule."""
        for record in await self._client._listed(timeout_s, name=name):
            return _schedule(record)
        raise _unknown(name)

    @operation
    async def pause(self, name: str, timeout_s: float = 30.0, *, tenant: str | None = None) -> None:
        """Opens no task until the schedule is resumed. `tenant`: only if its tasks are of this one. Raises
        UnknownSchedule."""
        await self._change(Action.PAUSE_SCHEDULE, name, tenant, timeout_s)

    @operation
    async def resume(self, name: str, timeout_s: float = 30.0, *, tenant: str | None = None) -> None:
        """Goes on from now; what would have fired meanwhile is not made up for. `tenant`: as in `pause`. Raises
        UnknownSchedule."""
        await self._change(Action.RESUME_SCHEDULE, name, tenant, timeout_s)

    @operation
    async def remove(self, name: str, timeout_s: float = 30.0, *, tenant: str | None = None) -> None:
        """Forgets the schedule. Tasks that it has opened go on. `tenant`: as in `pause`. Raises UnknownSchedule; not
        when the answer to a call before was lost, and this client asks again."""
        may_be_gone = self._client._maybe_removed
        try:
            refused = await self._client._ask(Action.REMOVE_SCHEDULE, [_named(name, tenant)], timeout_s)
        except (TaskTimeout, TransportDown):
            may_be_gone.add(name)
            raise
        if refused and name not in may_be_gone:
            raise _unknown(name)
        may_be_gone.discard(name)

    @operation
    async def list(self, timeout_s: float = 30.0) -> list[Schedule]:
        """All of them, by name."""
        found: list[Schedule] = []
        while page := await self._client._listed(timeout_s, after=found[-1].name if found else ""):
            found += map(_schedule, page)
        return found

    async def _change(self, action: Action, name: str, tenant: str | None, timeout_s: float) -> None:
        for _ in await self._client._ask(action, [_named(name, tenant)], timeout_s):
            raise _unknown(name)


def _named(name: str, tenant: str | None) -> bytes:
    return item_of(name if tenant is None else ScheduleOf(name=name, tenant=tenant))


def _schedule(record: dict[str, Any]) -> Schedule:
    return Schedule.from_json(orjson.dumps(record))


def _unknown(name: str) -> UnknownSchedule:
    return UnknownSchedule(f"there is no schedule {name[:80]!r} of this client; `agents cron list` lists them")
