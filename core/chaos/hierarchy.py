"""The hierarchy under test: its processes, their links to the server, and what a fault does to them.

Like a supervisor, it restarts processes that have ended: after the duration of the fault that ended one, or soon after
one has ended by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from core.chaos.injector import LINK, SERVER, Fault, Kind, Target
from core.chaos.processes import Processes
from core.chaos.proxy import Proxy
from core.chaos.run_record import SERVER_LANE, InjectedFault, RunRecord
from core.chaos.server import RedisServer
from core.chaos.topology import Member, Topology

__all__ = ["Hierarchy"]

#: Seconds between two checks for processes that have ended, and from such an end to the restart.
POLL_S, RESTART_S = 0.1, 0.3
#: Seconds that a process may take to drain when it is asked to end, and between two checks whether it has ended.
DRAIN_S, ENDING_POLL_S = 20.0, 0.02


class Hierarchy:
    """All processes of a run. Call its methods from one event loop.

    `acting`: by agent id, the lane of the process that holds its lease; `core.chaos.watch` keeps it up to date.
    `links`: by lane, the proxy through which its process connects, if it has one.
    """

    def __init__(
        self,
        topology: Topology,
        processes: Processes,
        server: RedisServer,
        links: Mapping[str, Proxy],
        record: RunRecord,
        clock: Callable[[], float],
    ) -> None:
        self.acting: dict[str, str] = {}
        self._topology = topology
        self._processes = processes
        self._server = server
        self._links = links
        self._record = record
        self._clock = clock
        self._lanes: dict[int, str] = {}  # by pid, for all processes that were ever started
        self._struck_now: set[str] = set()  # lanes that a fault affects now
        self._faults: set[asyncio.Task[None]] = set()
        self._failed: list[asyncio.Task[None]] = []

    @property
    def server_state(self) -> str:
        return self._record.conditions.state(SERVER_LANE) or "down"

    def lane_of(self, pid: int) -> str:
        """The lane of a process, even if it has ended; empty if it is not one of ours."""
        return self._lanes.get(pid, "")

    def start(self) -> None:
        """Starts each process once."""
        self._condition(SERVER_LANE, "up")
        for member in self._topology.members:
            self._start(member)

    def inject(self, fault: Fault) -> InjectedFault | None:
        """Injects a fault, which is undone after its duration. Returns None if there was no process for it."""
        lane = SERVER_LANE if fault.target == SERVER else self._target_process(fault.target)
        if lane is None or lane in self._struck_now:
            return None
        of_server = fault.target == SERVER
        acting = of_server or lane == self.acting.get(fault.target.agent_id)
        pid = self._server.pid if of_server else self._processes.pid(lane)
        injected = InjectedFault(fault, self._clock(), lane, pid, acting)
        self._record.injected.append(injected)
        task = asyncio.get_running_loop().create_task(self._carry_out(injected), name=str(fault))
        self._faults.add(task)
        task.add_done_callback(self._over)
        return injected

    def _over(self, fault: asyncio.Task[None]) -> None:
        self._faults.discard(fault)
        if not fault.cancelled() and fault.exception():
            self._failed.append(fault)

    async def settle(self) -> None:
        """Waits until all injected faults are undone. Raises the error of any fault that has failed."""
        await asyncio.gather(*self._faults, *self._failed)

    async def mend(self) -> None:
        """Undoes all faults at once. Raises the error of any fault that has failed before."""
        for fault in self._faults:
            fault.cancel()
        await asyncio.gather(*self._faults, return_exceptions=True)
        await asyncio.gather(*self._failed)

    async def tend(self) -> None:
        """Restarts processes that end by themselves, until it is cancelled."""
        while True:
            for member in self._topology.members:
                if member.lane not in self._struck_now and not self._processes.alive(member.lane):
                    self._condition(member.lane, "down")
                    self._record.exits.setdefault(member.lane, []).append(self._processes.exit_code(member.lane) or 0)
                    with self._in_hand(member.lane):
                        await asyncio.sleep(RESTART_S)
                    self._start(member)
            await asyncio.sleep(POLL_S)

    def _target_process(self, target: Target) -> str | None:
        """The process that a target stands for: the one that acts, or for a standby another one."""
        lanes = [member.lane for member in self._topology.members if member.agent_id == target.agent_id]
        acting = self.acting.get(target.agent_id, lanes[0])
        wanted = [lane for lane in lanes if (lane != acting) is target.standby]
        return next((lane for lane in wanted if self._processes.alive(lane)), None)

    @contextmanager
    def _in_hand(self, lane: str) -> Iterator[None]:
        self._struck_now.add(lane)
        try:
            yield
        finally:
            self._struck_now.discard(lane)

    async def _carry_out(self, injected: InjectedFault) -> None:
        fault, lane = injected.fault, injected.lane
        with self._in_hand(lane):
            if fault.target == SERVER:
                await self._strike_server(fault)
            elif fault.kind in LINK:
                await self._strike_link(fault, lane)
            elif fault.kind is Kind.STOP:
                await self._stop(fault, lane)
            else:
                await self._end(fault, lane)
            injected.healed_s = self._clock()

    async def _strike_server(self, fault: Fault) -> None:
        if fault.kind is Kind.SERVER_KILL:
            self._server.kill()
            self._condition(SERVER_LANE, "down")
            try:
                await asyncio.sleep(fault.lasts_s)
            finally:
                await asyncio.to_thread(self._server.start)
                self._condition(SERVER_LANE, "up")
        else:
            self._server.stop()
            self._condition(SERVER_LANE, "stopped")
            try:
                await asyncio.sleep(fault.lasts_s)
            finally:
                self._server.cont()
                self._condition(SERVER_LANE, "up")

    async def _strike_link(self, fault: Fault, lane: str) -> None:
        link = self._links[lane]
        if fault.kind is Kind.CUT:
            link.cut()
        elif fault.kind is Kind.DELAY:
            link.delay(to_server_s=fault.delay_s, to_client_s=fault.delay_s)
        else:
            link.black_hole(to_server=fault.towards != "client", to_client=fault.towards != "server")
        self._record.links.set(lane, fault.kind.value, self._clock())
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            link.heal()
            self._record.links.set(lane, None, self._clock())

    async def _stop(self, fault: Fault, lane: str) -> None:
        self._processes.stop(lane)
        self._condition(lane, "stopped")
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            self._processes.cont(lane)
            self._condition(lane, "up")

    async def _end(self, fault: Fault, lane: str) -> None:
        try:
            if fault.kind is Kind.TERMINATE:
                self._processes.terminate(lane)
                self._condition(lane, "ending")
                await self._ended(lane)
            self._processes.kill(lane)
            self._condition(lane, "down")
            await asyncio.sleep(fault.lasts_s)
        finally:
            self._processes.kill(lane)
            self._start(next(member for member in self._topology.members if member.lane == lane))

    async def _ended(self, lane: str) -> None:
        """Waits until the process has ended, or the time for that is over."""
        for _ in range(round(DRAIN_S / ENDING_POLL_S)):
            if not self._processes.alive(lane):
                return
            await asyncio.sleep(ENDING_POLL_S)

    def _start(self, member: Member) -> None:
        if self._processes.alive(member.lane):
            return  # it had ended by itself before the fault, and has been restarted
        link = self._links.get(member.lane)
        environment = {"REDIS_URL": link.url} if link else {}
        pid = self._processes.start(
            member.role.value, member.agent_id, *member.flags, name=member.lane, environment=environment
        )
        self._lanes[pid] = member.lane
        self._condition(member.lane, "up")

    def _condition(self, lane: str, state: str) -> None:
        self._record.conditions.set(lane, state, self._clock())
