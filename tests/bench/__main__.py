"""`python -m tests.bench`: measures, prints tables to the terminal, and with --json writes every number to a file."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from tests.bench import parts, report
from tests.bench.agents import agents
from tests.bench.bus import bus_costs
from tests.bench.events import events
from tests.bench.levels import levels

PARTS = ("throughput", "latency", "idle", "backlog", "events", "bus", "levels", "agents")


def main() -> int:
    options = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 100)
    found: dict[str, Any] = {"machine": _machine(), "tasks": options.tasks, "repeats": options.repeats}
    for part in (options.only,) if options.only else PARTS:
        print(f"measuring {part} ...", file=sys.stderr)
        found[part] = _measure(part, options, console)
    if options.json:
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


def _measure(part: str, options: argparse.Namespace, console: Console) -> Any:
    """Runs one part, prints its tables, and returns its numbers for the file."""
    if part == "throughput":
        costs = parts.throughput(options.tasks, options.repeats)
        report.throughput_table(costs, console)
        return {"medians": report.summary(costs), "runs": [asdict(cost) for cost in costs]}
    if part == "latency":
        latencies = parts.latency(options.repeats)
        report.latency_table(latencies, console)
        return latencies
    if part == "idle":
        idle = parts.idle()
        report.idle_table(idle, console)
        return idle
    if part == "events":
        of_events = events(options.events)
        report.events_table(of_events, console)
        return of_events
    if part == "bus":
        costs_of_events = bus_costs(options.repeats)
        report.bus_table(costs_of_events, console)
        return costs_of_events
    if part == "levels":
        of_levels = levels(options.tasks, options.repeats)
        report.levels_table(of_levels, console)
        return of_levels
    if part == "agents":
        of_agents = agents(options.repeats)
        report.agents_tables(of_agents, console)
        return of_agents
    backlogs = parts.backlog(options.repeats)
    report.backlog_table(backlogs, console)
    return backlogs


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers there")
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="tasks per run (default: 20000)")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: 1000000)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each system (default: 3)")
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    options = parser.parse_args()
    if options.tasks < 1 or options.repeats < 1 or options.events < 1:
        parser.error("--tasks, --events and --repeats must be 1 or more")
    return options


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}


if __name__ == "__main__":
    sys.exit(main())
