"""Runs the supervisor of a hierarchy, in the terminal or in the background."""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from core.cli.render import note
from core.cli.session import run, settings
from core.config.settings import with_client_certificate
from core.config.sources import load
from core.embedded_server.embedded import ensure_server_blocking
from core.errors import AgentSystemError
from core.launch.hierarchy import AgentPlan, HierarchyFiles
from core.launch.preload import preload
from core.launch.readiness import wait_until_ready
from core.launch.supervisor import Supervisor
from core.machine.forked import fork, redirect
from core.overview import Overview
from core.printable import printable_lines
from core.roles import Role

__all__ = ["LaunchSettings", "launch_settings", "start_server", "supervise", "supervise_detached"]

#: Seconds to wait for a detached hierarchy to be ready. A slower one continues to start.
READY_S = 60.0
EXIT_NOT_READY = 75
#: A process may have far more descriptors, but those inherited from a shell or make are below this.
_HIGHEST_INHERITED = 4096


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """The settings that a supervisor needs. They contain no secret, since its forks run user code."""

    coordinator_id: str
    files: HierarchyFiles
    redis: str  #: address, without user and password
    drain_timeout_s: float
    log_format: str
    health_port: int | None


def launch_settings() -> LaunchSettings:
    """Raises ConfigError."""
    configured = settings()
    return LaunchSettings(
        configured.coordinator_id,
        HierarchyFiles.of(configured.redis, configured.coordinator_id),
        str(configured.redis.endpoint),
        configured.agent.drain_timeout_s,
        configured.agent.log_format,
        configured.agent.health_port,
    )


def start_server() -> None:
    """Starts the embedded server if necessary, without a thread. Raises TransportDown."""
    configured = load()
    ensure_server_blocking(with_client_certificate(configured.redis, configured.a2a))


def supervise(plans: Sequence[AgentPlan], launch: LaunchSettings, lock: int, report: int | None = None) -> int:
    """Runs the supervisor in this process, and returns its exit code. `lock` holds the hierarchy's lock.

    `report`: nobody watches, so agents write logs; "ready" is written there once all are.
    """
    began_s = time.monotonic()
    preload({plan.address.role for plan in plans})
    supervisor = Supervisor(
        plans,
        launch.files,
        private=[lock] if report is None else [lock, report],
        redis=launch.redis,
        drain_timeout_s=launch.drain_timeout_s,
        logs=launch.files.logs() if report is not None else None,
        say=_note_heard if report is None else _note_with_time,
        ready=partial(_announce, plans, os.getpid(), began_s),
        on_ready=partial(_report_ready, report) if report is not None else lambda: None,
    )
    return supervisor.run()


def _note_heard(text: str) -> None:
    """Does as `note`, but raises OSError when nobody reads stderr any more."""
    os.write(sys.stderr.fileno(), f"{printable_lines(text)}\n".encode(errors="backslashreplace"))


def _note_with_time(text: str) -> None:
    note(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}")


def _report_ready(report: int) -> None:
    with suppress(BrokenPipeError):  # the command that started it may have ended, after a timeout or with its session
        os.write(report, b"ready")
    os.close(report)


def _announce(plans: Sequence[AgentPlan], supervisor: int, began_s: float) -> int:
    """Waits, in a process of its own, until all agents run, and says so."""
    try:
        overview = run(wait_until_ready(plans, load(), supervisor, note))
    except AgentSystemError as error:
        note(f"agents: {error}")
        return error.exit_code
    for line in _ready_lines(plans, overview, time.monotonic() - began_s):
        note(line)
    return 0


def _ready_lines(plans: Sequence[AgentPlan], overview: Overview, took_s: float) -> tuple[str, str]:
    """Says which agents are ready, and the most useful next command."""
    workers = sum(plan.address.role is Role.WORKER for plan in plans)
    distributors = len(plans) - workers - 1
    who = f"{plans[0].address.agent_id}, {distributors} distributor(s) and {workers} worker(s) are ready"
    known = overview.task_types
    waiting = f" {overview.open_tasks} open task(s) go on." if overview.open_tasks else ""
    if not known:
        return f"{who}.{waiting}", "They know no task types yet. Next: agents up --import YOUR_MODULE"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    ready = f"{who} ({took_s:.1f} s). They know: {shown}.{waiting}"
    example = _example(overview)
    unknown = f"{known[0]} JSON --wait, where JSON is the payload that it takes"
    return ready, f"Next: agents submit {f'{example} --wait' if example else unknown}"


def _example(overview: Overview) -> str:
    """The type and payload of an example task, quoted for the shell; empty if no worker has one. It is parsed and
    quoted here, since anybody who can write to Redis may have written it."""
    for worker in overview.of_role(Role.WORKER):
        with suppress(ValueError, TypeError):
            task_type, payload = json.loads(worker.beat.example if worker.beat else "")
            if task_type in worker.task_types:
                return f"{shlex.quote(task_type)} {shlex.quote(json.dumps(payload, ensure_ascii=False))}"
    return ""


def supervise_detached(plans: Sequence[AgentPlan], launch: LaunchSettings, lock: int) -> int:
    """Starts a supervisor in a session of its own. Returns 0 when all agents are ready, or 75 if they are still
    starting. If the supervisor has ended, says why and returns its exit code."""
    files = launch.files
    log = files.log_of(f"supervisor-{launch.coordinator_id}")
    log_begins = log.stat().st_size if log.exists() else 0
    readable, writable = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = fork(partial(_become_daemon, plans, launch, lock, writable, log))
    os.close(writable)
    os.close(lock)
    code = _wait_for_report(pid, readable)
    said = log.read_bytes()[log_begins:].decode(errors="replace").strip()
    for line in said.split("\n"):
        note(line)
    if code is None:
        note(f"agents: not all are ready after {READY_S:g} s; they go on starting. `agents status` shows them.")
        return EXIT_NOT_READY
    if code != 0:
        for line in _last_words(files):
            note(line)
        note(f"agents: the hierarchy did not start. Its logs are in {files.logs()}")
    return code


def _become_daemon(plans: Sequence[AgentPlan], launch: LaunchSettings, lock: int, report: int, log: Path) -> int:
    """Runs in the new process. It keeps none of the caller's descriptors open, so that nobody waits for its end at a
    pipe."""
    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    redirect(said, said)
    kept = sorted((lock, report))
    os.closerange(3, kept[0])
    os.closerange(kept[0] + 1, kept[1])
    os.closerange(kept[1] + 1, _HIGHEST_INHERITED)
    return supervise(plans, launch, lock, report)


def _wait_for_report(pid: int, readable: int) -> int | None:
    """Waits for a supervisor. Returns 0 when it is ready, its exit code when it has ended, and None if neither happened
    within READY_S."""
    if not select.select([readable], [], [], READY_S)[0]:
        return None
    if os.read(readable, 16) == b"ready":
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or 1


def _last_words(files: HierarchyFiles) -> list[str]:
    """Prints the last line of the log of each agent that could not run."""
    record = files.read()
    words = []
    for agent in record.agents if record else ():
        if agent.exit_code is not None and agent.exit_code > 0:
            lines = files.log_of(agent.name).read_text(errors="replace").strip().splitlines()
            words += [f"{agent.name}: {line}" for line in lines[-1:]]
    return words
