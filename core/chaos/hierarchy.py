"""The hierarchy that is put to the test: its processes, their links to the server, and what a fault does to them.

Whatever goes down is started again, as a supervisor would: what a fault has ended after the time that the fault lasts,
and what ended by itself soon after it was seen.
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

#: Between two looks at who has ended, and from such an end to the new start.
POLL_S, RESTART_S = 0.1, 0.3
#: How long one that was asked to end may take to finish or hand back what it has.
DRAIN_S, ENDING_POLL_S = 20.0, 0.02


class Hierarchy:
    """Everything that runs. All methods belong to one event loop.

    `acting` tells, by agent id, the lane of the process that holds its lease; the one who watches the leases keeps it
    up to date. `links`: by lane, the proxy that its process connects through; none for those without.
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
        self._lanes: dict[int, str] = {}  # by pid, of all that were ever started
        self._struck_now: set[str] = set()  # lanes that a fault has in its hands
        self._faults: set[asyncio.Task[None]] = set()
        self._failed: list[asyncio.Task[None]] = []

    @property
    def server_state(self) -> str:
        return self._record.conditions.state(SERVER_LANE) or "down"

    def lane_of(self, pid: int) -> str:
        """Whose process it is or was; empty: none of ours."""
        return self._lanes.get(pid, "")

    def start(self) -> None:
        """Starts every process once."""
        self._condition(SERVER_LANE, "up")
        for member in self._topology.members:
            self._start(member)

    def inject(self, fault: Fault) -> InjectedFault | None:
        """Begins a fault, which undoes itself after its time. None: there was no process to inject it into."""
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
        """Returns when every fault that began is undone. Raises what went wrong in one of them, be it long ago."""
        await asyncio.gather(*self._faults, *self._failed)

    async def mend(self) -> None:
        """Undoes at once what is not undone yet. Raises what went wrong in a fault before that."""
        for fault in self._faults:
            fault.cancel()
        await asyncio.gather(*self._faults, return_exceptions=True)
        await asyncio.gather(*self._failed)

    async def tend(self) -> None:
        """Starts again whatever ends by itself, until cancelled."""
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
        """The process that is meant: the one that acts, or for a standby another one."""
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
        """Returns when the process has ended, or has had its time to."""
        for _ in range(round(DRAIN_S / ENDING_POLL_S)):
            if not self._processes.alive(lane):
                return
            await asyncio.sleep(ENDING_POLL_S)

    def _start(self, member: Member) -> None:
        if self._processes.alive(member.lane):
            return  # it had ended by itself when the fault began, and who saw that has started it again
        link = self._links.get(member.lane)
        environment = {"REDIS_URL": link.url} if link else {}
        pid = self._processes.start(
            member.role.value, member.agent_id, *member.flags, name=member.lane, environment=environment
        )
        self._lanes[pid] = member.lane
        self._condition(member.lane, "up")

    def _condition(self, lane: str, state: str) -> None:
        self._record.conditions.set(lane, state, self._clock())
