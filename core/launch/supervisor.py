"""The process that runs a hierarchy: it forks the agents, restarts those that die, and drains them from below.

It has one thread, no event loop and no connection to Redis. It sleeps until a signal or a line of output arrives, and
writes what it knows to the hierarchy's record. The program of a tier is `ROLE.__main__`. It is imported once, before
the first fork, so that all agents start in the time of one and share memory.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from core.launch.hierarchy import AgentPlan, AgentRecord, HierarchyFiles, HierarchyRecord
from core.launch.programs import main_of
from core.launch.restarts import AGENT_RESTARTS, ORDERLY_CODES, AgentRestarts
from core.machine.forked import fork_detached
from core.machine.private_files import write_private
from core.machine.process_identity import this_process
from core.machine.signal_socket import SignalSocket
from core.roles import Role

__all__ = ["EXIT_KILLED", "Supervisor"]

EXIT_HANDED_BACK, EXIT_KILLED = 75, 130
#: Seconds after the drain timeout in which an agent hands tasks back and says goodbye, before it is killed.
GRACE_S = 10.0
#: Seconds that a tier has at least. Even an idle agent needs a moment to say goodbye, and the upper tiers have to pass
#: on what the workers have just handed back.
MIN_DRAIN_S = {Role.WORKER: 0.5, Role.DISTRIBUTOR: 5.0, Role.COORDINATOR: 5.0}
#: Tiers drain from below, so that each can still pass its tasks up.
DRAIN_ORDER = (Role.WORKER, Role.DISTRIBUTOR, Role.COORDINATOR)


def _run_tier(plan: AgentPlan) -> int:
    return main_of(plan.address.role)(list(plan.flags))


@dataclass(slots=True)
class _AgentProcess:
    """An agent and its process, if it has one now."""

    plan: AgentPlan
    record: AgentRecord
    restarts: AgentRestarts = field(default_factory=AgentRestarts)
    output: int | None = None  #: read end of its output, if that goes to our terminal
    pending: bytes = b""  #: the beginning of an unfinished line of its output
    said: str = ""  #: the last line of its output
    due_s: float | None = None  #: monotonic time of its restart

    @property
    def name(self) -> str:
        return str(self.plan.address)

    @property
    def alive(self) -> bool:
        return self.record.exit_code is None


class Supervisor:
    """Runs the agents of one hierarchy. `private`: descriptors that no agent may hold, such as the hierarchy's lock.

    `say` is called with lines for people. `ready` runs in a process of its own; when it has returned 0, `on_ready` is
    called once.
    """

    def __init__(
        self,
        plans: Sequence[AgentPlan],
        files: HierarchyFiles,
        *,
        private: Sequence[int],
        redis: str,
        drain_timeout_s: float,
        logs: Path | None,
        say: Callable[[str], None],
        ready: Callable[[], int],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._plans = plans
        self._files = files
        self._private = tuple(private)
        self._drain_timeout_s = drain_timeout_s
        self._logs = logs
        self._say = say
        self._ready = ready
        self._on_ready = on_ready
        self._name_width = max(len(str(plan.address)) for plan in plans)
        self._living: dict[int, _AgentProcess] = {}  # the living ones, by pid
        self._agents: list[_AgentProcess] = []
        self._watcher = 0
        self._unheard = False  # whether nobody reads our output any more
        self._stop_requests = 0  # how often we were asked to stop
        self._stage: Role | None = None  # the tier that drains
        self._stage_ends_s = 0.0
        self._failed: _AgentProcess | None = None  # an agent that could not start, which makes `up` fail
        self._signals = SignalSocket(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._record = HierarchyRecord(
            coordinator_id=plans[0].address.agent_id,
            redis=redis,
            pid=os.getpid(),
            process=this_process(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ready=False,
            logs=str(logs) if logs else None,
            agents=(),
        )

    def run(self) -> int:
        """Runs until all agents have ended. Returns the exit code: 0 if they have drained, 75 if some handed tasks
        back, 130 if a second signal killed them, or an agent's own exit code if that agent could not start, or if no
        agent could be kept running."""
        self._files.drain_order.unlink(missing_ok=True)
        for plan in self._plans:
            agent = _AgentProcess(plan, AgentRecord(plan.address.role.value, plan.address.agent_id, 0, starts=0))
            self._agents.append(agent)
            self._start(agent)
        self._watcher = fork_detached(self._ready, stdout=None, stderr=None, close=self._descriptors())
        self._save()
        while self._living or any(agent.due_s is not None for agent in self._agents):
            self._turn()
        self._end_watcher()
        self._files.drain_order.unlink(missing_ok=True)
        if self._failed:  # repeated, since the output of the other agents has followed it
            why = f": {self._failed.said}" if self._failed.said else ""
            self._tell(f"{self._failed.name} could not start (exit code {self._failed.record.exit_code}){why}")
        return self._exit_code()

    # ---- the loop ----

    def _turn(self) -> None:
        """Sleeps until something happens, and handles it."""
        for key, _ in self._selector.select(self._patience_s()):
            key.data()
        now_s = time.monotonic()
        for agent in self._agents:
            if agent.due_s is not None and agent.due_s <= now_s:
                self._start_again(agent)
                self._save()
        if self._stage is not None and now_s >= self._stage_ends_s:
            self._kill(self._stage, "did not end in time and was killed; others finish its tasks")

    def _patience_s(self) -> float | None:
        """Seconds until something is due; None: nothing is, so a signal ends the sleep."""
        times = [agent.due_s for agent in self._agents if agent.due_s is not None]
        if self._stage is not None:
            times.append(self._stage_ends_s)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGCHLD:
                self._reap()
            else:
                self._asked_to_stop()

    def _descriptors(self) -> list[int]:
        """Our descriptors that no child may hold: otherwise the lock would stay taken, and pipes would never close."""
        outputs = [agent.output for agent in self._agents if agent.output is not None]
        return [*self._private, *self._signals.descriptors, *outputs]

    # ---- starting and dying ----

    def _start_again(self, agent: _AgentProcess) -> None:
        try:
            self._start(agent)
        except OSError as error:  # no more processes, descriptors or disk space, which must not end the others
            pause_s = AGENT_RESTARTS.max_pause_s
            agent.due_s = time.monotonic() + pause_s
            self._tell(f"{agent.name} cannot be started now ({error.strerror}); again in {pause_s:g} s")

    def _start(self, agent: _AgentProcess) -> None:
        agent.due_s = None
        if self._logs is not None:
            said = os.open(self._files.log_of(agent.name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        else:
            self._hang_up(agent)
            agent.output, said = os.pipe()
            os.set_blocking(agent.output, False)
            self._selector.register(agent.output, selectors.EVENT_READ, partial(self._on_output, agent))
        try:
            close = [*self._descriptors(), said]
            pid = fork_detached(partial(_run_tier, agent.plan), stdout=said, stderr=said, close=close)
        finally:
            os.close(said)
        agent.record = replace(agent.record, pid=pid, starts=agent.record.starts + 1, exit_code=None)
        self._living[pid] = agent

    def _reap(self) -> None:
        while self._living or self._watcher:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self._watcher:
                self._on_watched(code)
            elif pid in self._living:
                self._on_death(self._living.pop(pid), code)
            self._save()

    def _on_watched(self, code: int) -> None:
        self._watcher = 0
        if code == 0 and not self._stop_requests:
            self._record = replace(self._record, ready=True)
            self._save()
            self._on_ready()

    def _on_death(self, agent: _AgentProcess, code: int) -> None:
        self._on_output(agent)
        agent.record = replace(agent.record, exit_code=code)
        if self._stop_requests:
            self._next_stage()
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if not self._record.ready and code > 0:
            self._tell(f"{agent.name} could not start (exit code {code}); stopping the others")
            self._failed = agent
            self._asked_to_stop()
            return
        pause_s = agent.restarts.pause_s(code, time.monotonic())
        if pause_s is None:
            self._tell(f"{agent.name} {how}: {agent.restarts.why_not(code)}")
        else:
            agent.due_s = time.monotonic() + pause_s  # before `_tell`, which may ask all agents to stop
            self._tell(f"{agent.name} {how}; it is started again in {pause_s:.1f} s")

    def _on_output(self, agent: _AgentProcess) -> None:
        """Passes on the whole lines of an agent's output, each after its name."""
        while agent.output is not None:
            try:
                said = os.read(agent.output, 65_536)
            except BlockingIOError:
                return
            lines = (agent.pending + said).split(b"\n")
            agent.pending = lines.pop()
            if not said:
                lines += [agent.pending] if agent.pending else []
                self._hang_up(agent)
            for line in lines:
                agent.said = line.decode(errors="replace")
                self._tell(f"{agent.name:<{self._name_width}} | {agent.said}")

    def _hang_up(self, agent: _AgentProcess) -> None:
        """Closes our end of the output of a process that has ended. Its descendants may still hold the other end."""
        if agent.output is not None:
            self._selector.unregister(agent.output)
            os.close(agent.output)
            agent.output, agent.pending = None, b""

    # ---- stopping ----

    def _asked_to_stop(self) -> None:
        self._stop_requests += 1
        for agent in self._agents:
            agent.due_s = None
        self._end_watcher()
        if self._stop_requests > 1:
            self._tell(
                "asked a second time: ending everything at once; what was running is finished after the next start"
            )
            for role in DRAIN_ORDER:
                self._kill(role)
            return
        if self._files.drain_order.exists():
            self._drain_timeout_s = float(self._files.drain_order.read_text())
        self._tell(f"draining: running tasks get {self._drain_timeout_s:g} s (a second signal ends everything at once)")
        self._next_stage()

    def _next_stage(self) -> None:
        """Asks the lowest tier that still has agents to drain, once."""
        living = [agent.plan.address.role for agent in self._living.values()]
        stage = next((role for role in DRAIN_ORDER if role in living), None)
        if stage is self._stage or self._stop_requests > 1:
            return
        self._stage = stage
        drain_s = max(self._drain_timeout_s, MIN_DRAIN_S[stage]) if stage else 0.0
        with suppress(OSError):  # on a full disk, agents use the configured time
            write_private(self._files.drain_order, f"{drain_s}")
        self._stage_ends_s = time.monotonic() + drain_s + GRACE_S
        for pid, agent in self._living.items():
            if agent.plan.address.role is stage:
                os.kill(pid, signal.SIGTERM)

    def _kill(self, role: Role, why: str = "") -> None:
        for pid, agent in self._living.items():
            if agent.plan.address.role is role:
                os.kill(pid, signal.SIGKILL)
                if why:
                    self._tell(f"{agent.name} {why}")
        self._stage_ends_s = time.monotonic() + GRACE_S

    def _end_watcher(self) -> None:
        if self._watcher:
            os.kill(self._watcher, signal.SIGKILL)
            os.waitpid(self._watcher, 0)
            self._watcher = 0

    def _save(self) -> None:
        for agent in self._agents:
            self._record = self._record.with_agent(agent.record)
        try:
            self._files.write(self._record)
        except OSError as error:  # a full disk must not end agents
            self._tell(f"the record of what runs could not be written: {error}")

    def _tell(self, text: str) -> None:
        """Passes a line to `say`. If nobody reads it any more, that counts as a closed terminal, and all agents
        stop."""
        if self._unheard:
            return
        try:
            self._say(text)
        except BrokenPipeError:
            self._unheard = True
            if not self._stop_requests:
                self._asked_to_stop()
        except OSError:
            pass  # the disk of the log is full, but agents go on

    def _exit_code(self) -> int:
        if self._failed and self._failed.record.exit_code:
            return self._failed.record.exit_code
        if self._stop_requests > 1:
            return EXIT_KILLED
        codes = [agent.record.exit_code or 0 for agent in self._agents]
        if not self._stop_requests:  # all agents have ended by themselves
            return next((code if code > 0 else 1 for code in codes if code not in ORDERLY_CODES), 0)
        return EXIT_HANDED_BACK if any(code != 0 for code in codes) else 0
