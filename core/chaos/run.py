"""A run: a hierarchy on a server of its own under load, first calm, then with faults, then the drain and the
verdict."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from core.chaos.agent_load import AgentLoad
from core.chaos.append_log import AppendLog
from core.chaos.archive import Archive
from core.chaos.hierarchy import Hierarchy
from core.chaos.injector import LINK, Kind, schedule
from core.chaos.judge import Verdict, judge
from core.chaos.ledger import LEDGER_VARIABLE, Ledger, read_ledger
from core.chaos.live import AgentLine, ChaosView, Snapshot
from core.chaos.load import Load
from core.chaos.processes import Processes
from core.chaos.proxy import Proxy
from core.chaos.recovery import server_recoveries, worker_recoveries
from core.chaos.run_record import SERVER_LANE, InjectedFault, Phases, RunRecord
from core.chaos.server import RedisServer
from core.chaos.topology import COORDINATOR, Member, topology
from core.chaos.watch import Watch
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.embedded_server.binary import server_binary
from core.errors import WorldError
from core.machine.fresh_interpreter import python_path
from core.operations.reader import reading
from core.roles import Role
from core.tasks import Task

__all__ = ["START_S", "Plan", "RunResult", "run_chaos"]

#: With leases of 2 s, half a minute of faults shows a dozen takeovers. Ended tasks expire soon, so that a long run does
#: not fill the server; their client has heard of them by then.
PROFILE = {
    "AGENT_LEASE_S": "2",
    "AGENT_HEARTBEAT_S": "0.4",
    "AGENT_FAILURE_TIMEOUT_S": "2",
    "TASK_RETENTION_S": "120",
    "LOG_FORMAT": "json",
}
#: The variables of this process's environment that agents get: none of them configures agents.
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "TZ")
#: The share of a run without faults, for comparison.
CALM = 0.15
#: Number of tasks that each worker runs at once, and of tasks that may be open for each of these: enough for no worker
#: to run dry while others are down.
CONCURRENCY, OPEN_PER_SLOT = 8, 8
#: Number of ended tasks after which the run is warmed up.
WARM = 200
START_S, DRAIN_S, QUIET_S = 60.0, 60.0, 10.0
POLL_S, ARCHIVE_S = 0.1, 1.0
#: In the live view: the number of latest faults, the seconds of the curve, and the most ends in them.
SHOWN_FAULTS, SHOWN_S = 6, 40
#: Faults that interrupt the acting process.
INTERRUPTING = frozenset({Kind.KILL, Kind.STOP, Kind.CUT, Kind.BLACK_HOLE})


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked to do."""

    seconds: float  #: calm and faults together, without start and drain
    seed: int
    interval_s: float  #: mean time between two faults
    distributors: int = 2
    workers: int = 4
    kinds: frozenset[Kind] = frozenset(Kind)
    agents: bool = False  #: whether the load has graphs as well


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run."""

    record: RunRecord
    phases: Phases
    verdict: Verdict
    interrupted: bool  #: whether somebody ended it early


async def run_chaos(plan: Plan, directory: Path, view: ChaosView, stop: asyncio.Event) -> RunResult:
    """Runs a plan in `directory`, which keeps the agents' logs, the ledger and the server's writes.

    When `stop` is set, it injects no more faults, drains and judges. Raises TimeoutError when the hierarchy does not
    start.
    """
    async with AsyncExitStack() as stack:
        run = _Run(plan, directory, view, stop, stack)
        return await run.from_start_to_end()


class _Run:
    """One run, from the start of its server to its end."""

    def __init__(
        self, plan: Plan, directory: Path, view: ChaosView, stop: asyncio.Event, stack: AsyncExitStack
    ) -> None:
        self.plan, self.view, self.stop = plan, view, stop
        self.origin_ns = time.monotonic_ns()
        self.record = RunRecord()
        self.topology = topology(plan.distributors, plan.workers, CONCURRENCY, agents=plan.agents)
        self.phase, self.ready_s, self.calm_s = "starting", 0.0, 0.0
        self.calm_rate = 0.0
        self.done_each_second: Counter[int] = Counter()
        # While a disk is slow, a server that syncs every second answers before it has written. If it is killed then, it
        # loses data, which would be no failure of this system.
        self.server = stack.enter_context(RedisServer(server_binary(None), append_only=True, fsync="no"))
        self.archive = Archive(self.server.append_directory, self.server.directory / "archive")
        self.ledger_path = directory / "ledger"
        self.ledger = stack.enter_context(Ledger(self.ledger_path))
        secret = secrets.token_urlsafe(32)
        self.processes = stack.enter_context(Processes(directory, self._environment(directory, secret)))
        self.redis = RedisConfig(url=self.server.url, password=self.server.password, mode="external")
        self.client = AgentClient(self.redis, A2AConfig(agent_id="chaos", token_secret=secret), COORDINATOR, "chaos")
        links = {member.lane: stack.enter_context(Proxy(self.server.socket)) for member in self._linked()}
        self.hierarchy = Hierarchy(self.topology, self.processes, self.server, links, self.record, self.now_s)
        self.stack = stack

    def now_s(self) -> float:
        """The time since the run began."""
        return (time.monotonic_ns() - self.origin_ns) / 1e9

    def _linked(self) -> tuple[Member, ...]:
        """The lanes that need a link which faults can affect."""
        return self.topology.members if self.plan.kinds & LINK else ()

    def _environment(self, directory: Path, secret: str) -> dict[str, str]:
        return {
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
            **PROFILE,
            **self.server.environment,
            "PYTHONPATH": python_path(),
            "A2A_TOKEN_SECRET": secret,
            "AGENT_DATA_DIR": str(directory),
            LEDGER_VARIABLE: str(self.ledger_path),
        }

    async def from_start_to_end(self) -> RunResult:
        self.view.say(f"starting {len(self.topology.members)} agents on a server of their own")
        self.origin_ns = time.monotonic_ns()
        self.hierarchy.start()
        reader = await self.stack.enter_async_context(reading(self.redis))
        self.watch = Watch(
            reader, self.topology.leases, self.record, self.now_s, self.hierarchy.lane_of, self.hierarchy.acting
        )
        await self.stack.enter_async_context(self.client)
        max_open = self.plan.workers * CONCURRENCY * OPEN_PER_SLOT
        self.agents = AgentLoad(self.client, self.ledger, self.plan.seed) if self.plan.agents else None
        self.load = Load(
            self.client,
            self.ledger,
            max_open=max_open,
            seed=self.plan.seed,
            on_end=self._on_end,
            agents=self.agents,
        )
        try:
            phases = await self._run()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # the other errors are only its consequences
        self.watch.close()
        for track in (self.record.conditions, self.record.links):
            track.close(self.now_s())
        self.view.say("holding the ledger against everything that the server has written")
        return await asyncio.to_thread(self._result, phases)

    async def _run(self) -> Phases:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(work) for work in self._beside()]
            phases = await self._phases(group)
            for task in beside:
                task.cancel()
        return phases

    def _beside(self) -> Iterator[Coroutine[None, None, None]]:
        """Runs everything that goes on during the whole run."""
        yield self.watch.look_on()
        yield self.hierarchy.tend()
        yield self._archive()
        yield self._show()
        if self.agents is not None:
            yield self.agents.answer()

    async def _archive(self) -> None:
        """Archives the append-only file, and has it rewritten, until it is cancelled."""
        async with reading(self.redis) as reader:
            while True:
                self.archive.collect()
                if self.archive.wants_rewrite:
                    with suppress(WorldError):  # it is away or already does it; it is told again later
                        await reader.run(("BGREWRITEAOF",))
                await asyncio.sleep(ARCHIVE_S)

    async def _phases(self, group: asyncio.TaskGroup) -> Phases:
        async with asyncio.timeout(START_S):
            await _until(lambda: len(self.watch.epochs) == len(self.topology.leases))
            loading = group.create_task(self.load.run())
            await _until(lambda: self.load.counts.ended >= WARM)
        self.ready_s, self.phase = self.now_s(), "calm"
        await self._wait(self.ready_s + CALM * self.plan.seconds)
        self.calm_s, self.phase = self.now_s(), "faults"
        self.calm_rate = self.record.rate(self.ready_s, self.calm_s)
        await self._inject()
        faults_s, self.phase = self.now_s(), "draining"
        await (self.hierarchy.mend() if self.stop.is_set() else self.hierarchy.settle())
        self.load.stop()
        await asyncio.wait([loading], timeout=DRAIN_S)
        loading.cancel()  # the judge finds out what happened to tasks that are still open
        await self._quiet()
        return Phases(self.ready_s, self.calm_s, faults_s, self.now_s())

    async def _quiet(self) -> None:
        """Waits until all messages are read, or the time for that is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S), reading(self.redis) as reader:
                lengths = [("XLEN", key) for key in self.topology.inboxes]
                while True:
                    if not any(await reader.run(*lengths)):
                        return
                    await asyncio.sleep(POLL_S)

    async def _wait(self, until_s: float) -> None:
        """Waits until that time, or until somebody ends the run."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - self.now_s())):
                await self.stop.wait()

    async def _inject(self) -> None:
        seconds = (1 - CALM) * self.plan.seconds
        for fault in schedule(self.plan.seed, seconds, self.plan.interval_s, self.topology.targets, self.plan.kinds):
            await self._wait(self.calm_s + fault.at_s)
            if self.stop.is_set():
                return
            if (injected := self.hierarchy.inject(fault)) is not None:
                self._tell(injected)
        await self._wait(self.calm_s + seconds)

    def _tell(self, injected: InjectedFault) -> None:
        fault = injected.fault
        self.ledger.note(
            "fault", fault=str(fault), process=injected.lane, target_pid=injected.pid, acting=injected.acting
        )
        self.watch.disturbed(injected)
        role = next((member.role for member in self.topology.members if member.lane == injected.lane), Role.WORKER)
        if injected.acting and fault.kind in INTERRUPTING and role is not Role.WORKER:
            self.watch.interrupted(injected, role)

    def _on_end(self, task: Task) -> None:
        now_s = self.now_s()
        self.record.done_s.append(now_s)
        self.done_each_second[int(now_s)] += 1

    def _result(self, phases: Phases) -> RunResult:
        entries = read_ledger(self.ledger_path)
        self.record.lanes = (SERVER_LANE, *(member.lane for member in self.topology.members))
        self.record.recoveries += worker_recoveries(self.record.injected, entries, self.origin_ns)
        self.record.recoveries += server_recoveries(self.record.injected, self.record.done_s)
        self.archive.collect()
        verdict = judge(entries, AppendLog(self.archive.directory).transactions())
        return RunResult(self.record, phases, verdict, interrupted=self.stop.is_set())

    # ---- what is shown ----

    async def _show(self) -> None:
        while True:
            self.view.show(self._snapshot())
            await asyncio.sleep(POLL_S)

    def _snapshot(self) -> Snapshot:
        now_s, counts = self.now_s(), self.load.counts
        return Snapshot(
            phase=self.phase,
            elapsed_s=int(now_s),
            total_s=int(self.ready_s + self.plan.seconds),
            server=self.hierarchy.server_state,
            agents=tuple(self._line(agent_id) for agent_id in self.topology.leases),
            last_faults=tuple(
                f"{injected.at_s:6.1f} s  {injected.fault}" for injected in self.record.injected[-SHOWN_FAULTS:]
            ),
            faults=len(self.record.injected),
            open=counts.open,
            done=counts.ended,
            rates=tuple(float(self.done_each_second[second]) for second in range(int(now_s))[-SHOWN_S:]),
            calm=self.calm_rate,
        )

    def _line(self, agent_id: str) -> AgentLine:
        lanes = [member.lane for member in self.topology.members if member.agent_id == agent_id]
        return AgentLine(
            agent_id,
            tuple((lane, self._does(agent_id, lane)) for lane in lanes),
            self.watch.epochs.get(agent_id, 0),
            max(0, self.watch.takeovers[agent_id]),
        )

    def _does(self, agent_id: str, lane: str) -> str:
        """The state of a process in a word; the worst one counts."""
        condition = self.record.conditions.state(lane) or "down"
        if condition != "up":
            return condition
        role = "acts" if self.hierarchy.acting.get(agent_id) == lane else "waits"
        return self.record.links.state(lane) or role


async def _until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(POLL_S)
