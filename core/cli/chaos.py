"""`agents chaos`: runs a separate hierarchy under load, injects random faults, and judges the outcome."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["chaos"]


def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, max=10_000, help="Minutes, calm and faults together.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides which faults happen, and when.")] = 7,
    distributors: Annotated[int, typer.Option(min=1, max=20, help="How many distributors.")] = 2,
    workers: Annotated[int, typer.Option(min=1, max=100, help="How many workers in all.")] = 4,
    interval: Annotated[float, typer.Option(min=0.05, max=3600, help="Seconds between two faults, on average.")] = 0.3,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="KIND", help="Only faults of this kind; repeatable.")
    ] = None,
    agents: Annotated[
        bool, typer.Option("--agents", help="Also LangGraph agents: questions, delegation, streams.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
    svg_file: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write the timeline there.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the agents' logs and the ledger, also of a run that found nothing.")
    ] = False,
) -> None:
    """Break a hierarchy at random under load, and prove that nothing is lost.

    It starts a server and a hierarchy of its own, in a temporary directory: a coordinator and a standby, distributors,
    workers. After a calm while, agents and server are killed, stopped and cut off. Exit code 0: every accepted task
    ended once and every invariant held; 1: otherwise, or nothing was tried. Ctrl-C ends it early, with the verdict so
    far.

    Recovery, of a coordinator or distributor that acted: until another process acts in its place, or itself again. Of
    a worker: until the last task that it was executing is executed elsewhere, or goes on. Of the server: from when it
    answers again to the next result that a client is told.
    """
    from core.chaos import program

    again = ["agents", "chaos", "--minutes", f"{minutes:g}", "--seed", str(seed)]
    again += ["--distributors", str(distributors), "--workers", str(workers), "--interval", f"{interval:g}"]
    again += [part for kind in only or () for part in ("--only", kind)]
    again += ["--agents"] if agents else []
    raise typer.Exit(
        program.run(
            seconds=60 * minutes,
            seed=seed,
            distributors=distributors,
            workers=workers,
            interval_s=interval,
            only=only or (),
            agents=agents,
            json_file=json_file,
            svg_file=svg_file,
            keep=keep,
            command=shlex.join(again),
        )
    )
