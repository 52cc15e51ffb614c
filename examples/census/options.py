"""The command line of the demo."""

from __future__ import annotations

import argparse
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.census.tree import to_text

__all__ = ["Options", "Victim", "parse"]

Victim = Literal["worker", "distributor"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options from the command line."""

    root: str  #: absolute, as `tree.to_text` gives it
    workers: int
    distributors: int
    kill: Victim | None
    report: Path
    as_json: bool
    local: bool  #: the whole hierarchy in this process, without a server


def parse(arguments: Sequence[str] | None) -> Options:
    """Parses the command line. If it is wrong, says why and exits with 2."""
    parser = argparse.ArgumentParser(prog="example_e2e.py", description="A code census, done by a hierarchy of agents.")
    parser.add_argument("path", nargs="?", default=sysconfig.get_path("stdlib"), help="source tree (default: Python's)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers in all (default: 2)")
    parser.add_argument("--distributors", type=int, default=1, metavar="N", help="distributors (default: 1)")
    parser.add_argument("--kill", choices=["worker", "distributor"], help="kill one with SIGKILL in the middle")
    parser.add_argument("--report", type=Path, default=Path("census-report"), metavar="DIR", help="where to write to")
    parser.add_argument("--json", action="store_true", help="print report.json instead of text")
    parser.add_argument("--local", action="store_true", help="the hierarchy in this process, without a server")
    given = parser.parse_args(arguments)
    if not os.path.isdir(given.path):
        parser.error(f"{given.path!r} is not a directory: give the path of a source tree")
    if not 1 <= given.distributors <= given.workers:
        parser.error("each distributor needs a worker: --workers is the number of all workers together")
    if given.local and given.kill:
        parser.error("--kill ends a process, and with --local all agents share this one: leave out one of the two")
    return Options(
        root=to_text(os.fsencode(os.path.abspath(given.path))),
        workers=given.workers,
        distributors=given.distributors,
        kill=given.kill,
        report=given.report,
        as_json=given.json,
        local=given.local,
    )
