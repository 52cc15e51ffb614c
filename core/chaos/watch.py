"""Watches the leases of a hierarchy: which process acts for an id under which fence, and how long none did after a
fault."""

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

#: Seconds between two reads, which is the precision of recovery times.
POLL_S = 0.04


@dataclass(slots=True)
class _Interrupted:
    """An agent that a fault keeps, or may keep, from acting."""

    injected: InjectedFault
    role: Role
    epoch: int  #: the fence that it had


class Watch:
    """Watches the leases. Run `look_on` in an asyncio task. `lane_of`: the lane of a pid. `acting`: agent id -> lane of
    the process that acts, which is kept up to date."""

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
        self.takeovers: dict[str, int] = dict.fromkeys(leases, -1)  # the first holder is no takeover
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
        """Watches until it is cancelled."""
        while True:
            try:
                stored = await self._reader.run(*(("GET", key) for key in self._leases.values()))
            except WorldError:
                await asyncio.sleep(2 * POLL_S)  # the server is away
                continue
            now_s = self._clock()
            for agent_id, lease in zip(self._leases, stored, strict=True):
                self._take(agent_id, lease, now_s)
            await asyncio.sleep(POLL_S)

    def disturbed(self, injected: InjectedFault) -> None:
        """Notes a further fault. An open recovery of the same agent no longer counts, since its time would be that of
        both faults; after a fault of the server, no open recovery does."""
        hit = injected.fault.target
        self._interrupted = [
            interrupted
            for interrupted in self._interrupted
            if hit != SERVER and hit.agent_id != interrupted.injected.fault.target.agent_id
        ]

    def interrupted(self, injected: InjectedFault, role: Role) -> None:
        """Notes that the acting process of the target's id can no longer act. The recovery ends when a process acts
        again."""
        epoch = self.epochs.get(injected.fault.target.agent_id, 0)
        self._interrupted.append(_Interrupted(injected, role, epoch))

    def close(self) -> None:
        """Ends the watching, since the run is over."""
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
        """Whether this state of the lease ends the interruption, since there is a new holder or the old one is back."""
        if interrupted.injected.fault.target.agent_id != agent_id:
            return False
        is_back = interrupted.injected.healed_s is not None and interrupted.injected.fault.kind is not Kind.KILL
        if epoch > interrupted.epoch or is_back:
            self.record.recoveries.append(
                Recovery(interrupted.injected.fault, interrupted.role.value, now_s - interrupted.injected.at_s)
            )
            return True
        return False
