"""Watches the leases of a hierarchy: who acts for which id with which fence, and how long nobody did after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.chaos.injector import SERVER, Kind
from core.chaos.run_record import Hold, InjectedFault, Recovery, RunRecord
from core.errors import WorldError
from core.langgraph_state import Lease
from core.operations.reader import Reader
from core.roles import Role

__all__ = ["Watch"]

#: Between two looks: the precision of what is told of takeovers.
POLL_S = 0.04


@dataclass(slots=True)
class _Interrupted:
    """An agent that cannot act, or may not be able to."""

    injected: InjectedFault
    role: Role
    epoch: int  #: the fence of the lease that it held


class Watch:
    """`look_on` runs in a task. `lane_of` tells whose process a pid is; `acting` is kept up to date: id -> lane."""

    def __init__(
        self,
        reader: Reader,
        leases: Mapping[str, str],
        record: RunRecord,
        clock: Callable[[], float],
        lane_of: Callable[[int], str],
        acting: dict[str, str],
    ) -> None:
        self.epochs: dict[str, int] = {}
        self.takeovers: dict[str, int] = dict.fromkeys(leases, -1)  # the first one is no takeover
        self._reader = reader
        self._leases = leases
        self.record = record
        self._clock = clock
        self._lane_of = lane_of
        self.acting = acting
        self._seen: dict[str, bytes] = {}
        self._holds: dict[str, Hold] = {}
        self._interrupted: list[_Interrupted] = []

    async def look_on(self) -> None:
        """Until cancelled."""
        while True:
            try:
                stored = await self._reader.run(*(("GET", key) for key in self._leases.values()))
            except WorldError:
                await asyncio.sleep(2 * POLL_S)  # the server is away, which others tell
                continue
            now_s = self._clock()
            for agent_id, lease in zip(self._leases, stored, strict=True):
                self._take(agent_id, lease, now_s)
            await asyncio.sleep(POLL_S)

    def disturbed(self, injected: InjectedFault) -> None:
        """A further fault: what has not recovered from an earlier one of the same agent will tell nothing about that
        one any more, nor will anything when it hit the server."""
        hit = injected.fault.target
        self._interrupted = [
            interrupted
            for interrupted in self._interrupted
            if hit != SERVER and hit.agent_id != interrupted.injected.fault.target.agent_id
        ]

    def interrupted(self, injected: InjectedFault, role: Role) -> None:
        """The process that acted for the target's id cannot do so any more: until somebody does, it is a recovery."""
        epoch = self.epochs.get(injected.fault.target.agent_id, 0)
        self._interrupted.append(_Interrupted(injected, role, epoch))

    def close(self) -> None:
        """The run is over."""
        for agent_id in list(self._holds):
            self._end_hold(agent_id, self._clock())

    def _take(self, agent_id: str, stored: bytes | None, now_s: float) -> None:
        before = self._seen.get(agent_id, b"")
        if stored is None:
            self._end_hold(agent_id, now_s)
            self._seen.pop(agent_id, None)
            return
        if stored == before:
            return
        self._seen[agent_id] = stored
        lease = Lease.from_json(stored)
        if lease.epoch != self.epochs.get(agent_id) or agent_id not in self._holds:
            self._begin_hold(agent_id, lease, now_s)
        self._interrupted = [
            interrupted
            for interrupted in self._interrupted
            if not self._resumed(interrupted, agent_id, lease.epoch, now_s)
        ]

    def _begin_hold(self, agent_id: str, lease: Lease, now_s: float) -> None:
        self._end_hold(agent_id, now_s)
        if lease.epoch != self.epochs.get(agent_id):
            self.takeovers[agent_id] += 1
        lane = self._lane_of(int(lease.process.rsplit("/", 2)[-2]))
        self.epochs[agent_id] = lease.epoch
        self.acting[agent_id] = lane
        self._holds[agent_id] = Hold(agent_id, lane, lease.epoch, now_s, now_s)

    def _end_hold(self, agent_id: str, now_s: float) -> None:
        hold = self._holds.pop(agent_id, None)
        self.acting.pop(agent_id, None)
        if hold is not None:
            hold.end_s = now_s
            self.record.holds.append(hold)

    def _resumed(self, interrupted: _Interrupted, agent_id: str, epoch: int, now_s: float) -> bool:
        """Whether this sign of life ends the interruption: that of a new holder, or of the old one who is back."""
        if interrupted.injected.fault.target.agent_id != agent_id:
            return False
        is_back = interrupted.injected.healed_s is not None and interrupted.injected.fault.kind is not Kind.KILL
        if epoch > interrupted.epoch or is_back:
            self.record.recoveries.append(
                Recovery(interrupted.injected.fault, interrupted.role.value, now_s - interrupted.injected.at_s)
            )
            return True
        return False
