"""`agents up` runs a whole hierarchy as processes of this machine. `agents down` ends it without losing anything."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import note
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.launch.hierarchy import HierarchyRecord

__all__ = ["down", "up"]

#: Seconds that a supervisor may take from its start until it has written its record.
STARTING_S = 10.0
EXIT_NOT_ENDED = 75
_POLL_S = 0.05


def up(
    distributors: Annotated[int, typer.Option(min=1, max=100, help="How many distributors.")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of workers in all, shared among the distributors.")
    ] = 2,
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="A module or ./file.py with your tasks; repeatable."),
    ] = None,
    projects: Annotated[
        list[str] | None,
        typer.Option("--langgraph", metavar="PATH", help="A LangGraph project, or its langgraph.json; repeatable."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Tasks each worker runs at once (default: 4).")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--record", metavar="DIR", help="Record what the agents go through there, for `agents replay`."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all are ready; they go on.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="All of them in this one process, in which your tasks run too.")
    ] = False,
) -> None:
    """Run a hierarchy as processes of this machine.

    One coordinator, its distributors, their workers. Runs until Ctrl-C, which drains: running tasks are finished or
    handed back, and kept. With --detach it returns once all are at work; `agents down` ends them. An agent that dies is
    started again.

    With --local they share one process, for a small machine or a debugger. There is nothing between your tasks and its
    secrets, and what blocks it or kills it does so to all.
    """
    if local:
        refused = {"--detach": detach, "--langgraph": projects, "--record": recorded}
        if used := [option for option, value in refused.items() if value]:
            raise typer.BadParameter(f"--local goes without {', '.join(used)}")
        from core.cli.up_local import run_here

        raise typer.Exit(run_here(distributors, workers, modules or (), concurrency))
    from core.cli.run_in_fork import run_in_fork
    from core.cli.supervise import launch_settings, start_server, supervise, supervise_detached
    from core.cli.up_lock import take_lock
    from core.launch.hierarchy import plan_agents

    # This process forks agents, which run user code. So secrets are read in another process, and never in this one.
    launch = run_in_fork(launch_settings)
    log_format = "console" if launch.log_format == "auto" and not detach else launch.log_format
    recording = () if recorded is None else ("--record", str(recorded.absolute()))
    plans = plan_agents(
        launch.coordinator_id,
        distributors=distributors,
        workers=workers,
        modules=modules or (),
        projects=projects or (),
        concurrency=concurrency,
        flags=("--drain-order", str(launch.files.drain_order), "--log-format", log_format, *recording),
        health_port=launch.health_port,
    )
    lock = take_lock(launch.files, launch.coordinator_id, launch.redis)
    run_in_fork(start_server)
    raise typer.Exit((supervise_detached if detach else supervise)(plans, launch, lock))


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
    from core.launch.hierarchy import HierarchyFiles
    from core.machine.private_files import write_private

    configured = settings()
    files = HierarchyFiles.of(configured.redis, configured.coordinator_id)
    where = f"{configured.coordinator_id} at {configured.redis.endpoint}"
    if timeout is not None and files.running:
        write_private(files.drain_order, f"{timeout}")
    starting_ends_s = time.monotonic() + STARTING_S
    while not files.signal(signal.SIGTERM):
        if not files.running or time.monotonic() > starting_ends_s:
            note(f"nothing to end: `agents up` runs nothing for {where}.")
            return
        time.sleep(_POLL_S)
    drain_s = configured.agent.drain_timeout_s if timeout is None else timeout
    # Three tiers drain one after the other, each with the supervisor's grace in addition. Only the workers take long.
    deadline_s = time.monotonic() + 3 * (drain_s + 15)
    while files.running:
        if time.monotonic() > deadline_s:
            record = files.read()
            note(f"agents: still draining; process {record.pid if record else '?'} goes on with it.")
            raise typer.Exit(EXIT_NOT_ENDED)
        time.sleep(_POLL_S)
    record = files.read()
    assert record is not None
    raise typer.Exit(_tell_end(record, run(_open_tasks(configured))))


async def _open_tasks(configured: Settings) -> int:
    from core.redis_backend.keys import CoordinatorKeys

    async with looking(configured) as reader:
        [count] = await reader.run(("ZCARD", CoordinatorKeys(configured.coordinator_id).open))
        return int(count)


def _tell_end(record: HierarchyRecord, open_tasks: int) -> int:
    """Says how the hierarchy ended, and returns the exit code."""
    unclean = [agent.name for agent in record.agents if agent.exit_code not in (0, 75)]
    note(f"ended: {len(record.agents)} agents of {record.coordinator_id}.")
    if record.handed_back:
        note(f"handed back unfinished tasks: {', '.join(record.handed_back)}.")
    if unclean:
        note(f"ended without draining: {', '.join(unclean)}; their tasks are finished by others.")
    note(f"{open_tasks} open task(s) are kept; `agents up` goes on with them." if open_tasks else "No task is open.")
    return EXIT_NOT_ENDED if record.handed_back or unclean else 0
