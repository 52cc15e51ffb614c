"""`python -m tests.bench`: measures, prints tables to the terminal, and with --json writes every number to a file."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from tests.bench import parts, report
from tests.bench.agents import agents
from tests.bench.bus import bus_costs
from tests.bench.events import events
from tests.bench.explain import explain
from tests.bench.full_house import full_house
from tests.bench.gateway import gateway
from tests.bench.herd import herd
from tests.bench.levels import levels
from tests.bench.local import local
from tests.bench.registry import registry
from tests.bench.rehearsing import rehearsing
from tests.bench.scheduling import scheduling
from tests.bench.sight import sight
from tests.bench.streams import streams
from tests.bench.waiting import waiting


@dataclass(frozen=True)
class Part:
    """What measures, and what prints the tables of it. What was measured goes into the file as it is, or `kept`. One
    that takes long is measured only `alone`."""

    measure: Callable[[argparse.Namespace], Any]
    tables: Callable[[Any, Console], None]
    kept: Callable[[Any], Any] = lambda found: found
    alone: bool = False


def _engine(repeats: int) -> Any:
    from tests.bench.engine import requests_and_replies  # the peer is there only where benchmarks are installed

    return requests_and_replies(repeats)


PARTS = {
    "throughput": Part(
        lambda options: parts.throughput(options.tasks, options.repeats),
        report.throughput_table,
        lambda costs: {"medians": report.summary(costs), "runs": [asdict(cost) for cost in costs]},
    ),
    "latency": Part(lambda options: parts.latency(options.repeats), report.latency_table),
    "idle": Part(lambda _: parts.idle(), report.idle_table),
    "backlog": Part(lambda options: parts.backlog(options.repeats), report.backlog_table),
    "events": Part(lambda options: events(options.events), report.events_table),
    "bus": Part(lambda options: bus_costs(options.repeats), report.bus_table),
    "levels": Part(lambda options: levels(options.tasks, options.repeats), report.levels_table),
    "sight": Part(lambda options: sight(options.tasks, options.repeats), report.sight_table),
    "agents": Part(lambda options: agents(options.repeats), report.agents_tables),
    "engine": Part(lambda options: _engine(options.repeats), report.engine_table),
    "waiting": Part(
        lambda options: waiting(options.waiting, options.tasks, options.repeats), report.waiting_table, alone=True
    ),
    "streams": Part(lambda options: streams(options.repeats), report.streams_table, alone=True),
    "local": Part(lambda options: local(options.repeats), report.local_table),
    "rehearsal": Part(lambda options: rehearsing(options.repeats), report.rehearsal_table),
    "scheduling": Part(lambda options: scheduling(options.repeats), report.scheduling_table),
    "explain": Part(lambda options: explain(options.repeats), report.explain_table, alone=True),
    "full-house": Part(lambda _: full_house(), report.full_house_table, alone=True),
    "registry": Part(lambda _: registry(), report.registry_table),
    "gateway": Part(lambda options: gateway(options.repeats), report.gateway_tables),
    "herd": Part(lambda _: herd(), report.herd_table),
}


def main() -> int:
    options = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 100)
    found: dict[str, Any] = {"machine": _machine(), "tasks": options.tasks, "repeats": options.repeats}
    for name in (options.only,) if options.only else (name for name in PARTS if not PARTS[name].alone):
        print(f"measuring {name} ...", file=sys.stderr)
        part = PARTS[name]
        numbers = part.measure(options)
        part.tables(numbers, console)
        found[name] = part.kept(numbers)
    if options.json:
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers there")
    parser.add_argument("--tasks", type=int, default=20_000, metavar="N", help="tasks per run (default: 20000)")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: 1000000)")
    parser.add_argument("--waiting", type=int, default=100_000, metavar="N", help="tasks that ask (default: 100000)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each system (default: 3)")
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    options = parser.parse_args()
    if min(options.tasks, options.repeats, options.events, options.waiting) < 1:
        parser.error("--tasks, --events, --waiting and --repeats must be 1 or more")
    return options


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}


if __name__ == "__main__":
    sys.exit(main())
