"""`agents up`: a whole hierarchy as processes of this machine. `agents down`: its end, with nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import note
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config import Settings
    from core.overview import Overview
    from core.runtime.hierarchy import AgentPlan, HierarchyHome, HierarchyRecord

__all__ = ["down", "up"]

#: Longest wait for a detached hierarchy to be ready; what starts slower goes on starting.
READY_S = 60.0
EXIT_NOT_ENDED = 75
_POLL_S = 0.05


def up(
    distributors: Annotated[int, typer.Option(min=1, max=100, help="How many distributors.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, max=1000, help="How many workers in all; they are dealt out to the distributors.")
    ] = 2,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module or ./file.py with your tasks; repeatable."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Tasks each worker runs at once (default: 4).")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all are ready; they go on.")] = False,
) -> None:
    """Run a hierarchy as processes of this machine.

    One coordinator, its distributors, their workers. Runs until Ctrl-C, which drains: running tasks are finished or
    handed back, and kept. With --detach it returns once all are at work; `agents down` ends them. An agent that dies is
    started again.
    """
    from core.redis_backend.file_lock import try_lock
    from core.runtime.hierarchy import HierarchyHome, plan_agents

    configured = settings()
    home = HierarchyHome.of(configured.redis, configured.coordinator_id)
    format_here = configured.agent.log_format
    log_format = "console" if format_here == "auto" and not detach else format_here
    plans = plan_agents(
        configured.coordinator_id,
        distributors=distributors,
        workers=workers,
        modules=modules or (),
        concurrency=concurrency,
        flags=("--drain-order", str(home.drain_order), "--log-format", log_format),
    )
    lock = try_lock(home.lock)
    if lock is None:
        record = home.read()
        note(
            f"agents: {configured.coordinator_id} is up already at {configured.redis.endpoint}"
            f" (supervisor: process {record.pid if record else '?'}). `agents status` shows it, `agents down` ends it."
        )
        raise typer.Exit(1)
    _check_server(configured)
    if detach:
        _up_detached(plans, configured, home, lock)
    else:
        code = _supervise(plans, configured, home, lock)
        raise typer.Exit(code)


def _check_server(configured: Settings) -> None:
    """Starts the embedded server if need be, without a thread, since we are about to fork. Raises TransportDown."""
    from core.config import with_client_certificate
    from core.redis_backend.embedded import ensure_server_blocking

    ensure_server_blocking(with_client_certificate(configured.redis, configured.a2a))


def _supervise(
    plans: Sequence[AgentPlan], configured: Settings, home: HierarchyHome, lock: int, report: int | None = None
) -> int:
    """Is the supervisor from here on; returns its exit code. `report`: detached, and who waits for "ready" there."""
    from core.runtime.supervisor import Supervisor, import_tiers

    began_s = time.monotonic()
    import_tiers(plans)
    supervisor = Supervisor(
        plans,
        home,
        lock,
        redis=str(configured.redis.endpoint),
        drain_timeout_s=configured.agent.drain_timeout_s,
        logs=home.logs() if report is not None else None,
        say=note,
        ready=partial(_announce, plans, configured, os.getpid(), began_s),
        on_ready=partial(_report_ready, report) if report is not None else lambda: None,
    )
    return supervisor.run()


def _report_ready(report: int) -> None:
    os.write(report, b"ready")
    os.close(report)


def _announce(plans: Sequence[AgentPlan], configured: Settings, supervisor: int, began_s: float) -> int:
    """In a process of its own: waits until all are at work, and says so."""
    from core.errors import AgentSystemError
    from core.runtime.readiness import wait_until_ready

    try:
        overview = run(wait_until_ready(plans, configured, supervisor, note))
    except AgentSystemError as error:
        note(f"agents: {error}")
        return error.exit_code
    note(_ready_text(plans, overview, time.monotonic() - began_s))
    return 0


def _ready_text(plans: Sequence[AgentPlan], overview: Overview, took_s: float) -> str:
    """Who is ready, and the one obvious next command."""
    workers = sum(plan.address.role == "worker" for plan in plans)
    distributors = len(plans) - workers - 1
    who = f"{plans[0].address.agent_id}, {distributors} distributor(s) and {workers} worker(s) are ready"
    known = overview.task_types
    waiting = f" {overview.open_tasks} open task(s) go on." if overview.open_tasks else ""
    if not known:
        return f"{who}.{waiting}\nThey know no task types yet. Next: agents up --import YOUR_MODULE"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"{who} ({took_s:.1f} s). They know: {shown}.{waiting}\nNext: agents submit {known[0]} '{{}}' --wait"


# ---- detached ----


def _up_detached(plans: Sequence[AgentPlan], configured: Settings, home: HierarchyHome, lock: int) -> None:
    """Leaves a supervisor behind, in a session of its own; returns when it reports that all are ready."""
    log = home.log_of(f"supervisor-{configured.coordinator_id}")
    log_begins = log.stat().st_size if log.exists() else 0
    readable, writable = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_daemon(plans, configured, home, lock, writable, log)
    os.close(writable)
    os.close(lock)
    code = _wait_for_report(pid, readable)
    said = log.read_bytes()[log_begins:].decode(errors="replace").strip()
    note(said)
    if code is None:
        note(f"agents: not all are ready after {READY_S:g} s; they go on starting. `agents status` shows them.")
        raise typer.Exit(EXIT_NOT_ENDED)
    if code != 0:
        for line in _last_words(home):
            note(line)
        note(f"agents: the hierarchy did not start. Its logs are in {home.logs()}")
        raise typer.Exit(code)


def _become_daemon(
    plans: Sequence[AgentPlan], configured: Settings, home: HierarchyHome, lock: int, report: int, log: Path
) -> None:
    """Never returns. Keeps nothing of the caller's open, so that nobody waits for us by a pipe."""
    from core.runtime.forked import redirect

    code = 70
    try:
        os.setsid()
        said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        redirect(said, said)
        kept = sorted((lock, report))
        os.closerange(3, kept[0])
        os.closerange(kept[0] + 1, kept[1])
        os.closerange(kept[1] + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65_536 else 65_536)
        code = _supervise(plans, configured, home, lock, report)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait_for_report(pid: int, readable: int) -> int | None:
    """0: ready; the supervisor's exit code when it ended instead; None: neither within READY_S."""
    import select

    if not select.select([readable], [], [], READY_S)[0]:
        return None
    if os.read(readable, 16) == b"ready":
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) or 1


def _last_words(home: HierarchyHome) -> list[str]:
    """The last line of each agent that could not run."""
    record = home.read()
    words = []
    for agent in record.agents if record else ():
        if agent.exit_code is not None and agent.exit_code > 0:
            lines = home.log_of(agent.name).read_text(errors="replace").strip().splitlines()
            words += [f"{agent.name}: {line}" for line in lines[-1:]]
    return words


# ---- down ----


def down(
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that running tasks get to finish (default: DRAIN_TIMEOUT, 25)."),
    ] = None,
) -> None:
    """Drain and end what `agents up` has started.

    Workers first, then distributors, then the coordinator. Tasks that are not finished in time are handed back and
    kept; the next `agents up` goes on with them. Agents that were started by hand are left alone. Exit code 75 when
    something was handed back.
    """
    from core.redis_backend.private_files import write_private
    from core.runtime.hierarchy import HierarchyHome

    configured = settings()
    home = HierarchyHome.of(configured.redis, configured.coordinator_id)
    where = f"{configured.coordinator_id} at {configured.redis.endpoint}"
    if timeout is not None and home.running:
        write_private(home.drain_order, f"{timeout}")
    if not home.signal(signal.SIGTERM):
        note(f"nothing to end: `agents up` runs nothing for {where}.")
        return
    drain_s = configured.agent.drain_timeout_s if timeout is None else timeout
    # Three tiers, one after the other, each with the supervisor's grace on top; only the workers' takes its time.
    deadline_s = time.monotonic() + 3 * (drain_s + 15)
    while home.running:
        if time.monotonic() > deadline_s:
            record = home.read()
            note(f"agents: still draining; process {record.pid if record else '?'} goes on with it.")
            raise typer.Exit(EXIT_NOT_ENDED)
        time.sleep(_POLL_S)
    record = home.read()
    assert record is not None
    raise typer.Exit(_tell_end(record, run(_open_tasks(configured))))


async def _open_tasks(configured: Settings) -> int:
    from core.redis_backend.keys import CoordinatorKeys

    async with looking(configured) as reader:
        [count] = await reader.run(("ZCARD", CoordinatorKeys(configured.coordinator_id).open))
        return int(count)


def _tell_end(record: HierarchyRecord, open_tasks: int) -> int:
    """Says how it ended; returns the exit code."""
    unclean = [agent.name for agent in record.agents if agent.exit_code not in (0, 75)]
    note(f"ended: {len(record.agents)} agents of {record.coordinator_id}.")
    if record.handed_back:
        note(f"handed back unfinished tasks: {', '.join(record.handed_back)}.")
    if unclean:
        note(f"ended without draining: {', '.join(unclean)}; their tasks are finished by others.")
    note(f"{open_tasks} open task(s) are kept; `agents up` goes on with them." if open_tasks else "No task is open.")
    return EXIT_NOT_ENDED if record.handed_back or unclean else 0
