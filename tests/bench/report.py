"""The numbers as tables, medians over the repetitions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Cost

__all__ = [
    "agents_tables", "backlog_table", "bus_table", "engine_table", "events_table", "explain_table", "full_house_table",
    "gateway_tables", "idle_table", "latency_table", "local_table", "registry_table", "rehearsal_table",
    "scheduling_table", "sight_table", "streams_table", "summary", "throughput_table", "waiting_table",
]  # fmt: skip

PEER, OURS, ALONE = "dramatiq", "agent-system", "LangGraph"
SINGLY = "LangGraph, one run after the other"


def throughput_table(costs: list[Cost], console: Console) -> None:
    """Rates, and where the time goes."""
    peer, ours = _of(costs, PEER), _of(costs, OURS)
    table = Table(title=f"Throughput: {costs[0].tasks:,} no-op tasks, medians of {len(ours)}", title_justify="left")
    _columns(table, "", PEER, OURS, "ratio")
    rows: list[tuple[str, Callable[[Cost], float], str]] = [
        ("tasks per second", lambda cost: cost.tasks_per_s, ",.0f"),
        ("CPU per task, µs", lambda cost: cost.cpu_us_per_task_total, ",.0f"),
        ("Redis commands per task", lambda cost: cost.commands_per_task, ".2f"),
    ]
    for label, value, form in rows:
        theirs, mine = _median(map(value, peer)), _median(map(value, ours))
        table.add_row(label, f"{theirs:{form}}", f"{mine:{form}}", f"{mine / theirs:.2f}")
    console.print(table)
    for name, group in ((PEER, peer), (OURS, ours)):
        table = Table(title=f"{name}: where the time goes", title_justify="left")
        _columns(table, "process", "CPU µs per task", "share of one CPU", "memory, MB")
        for role in group[0].cpu_us_per_task:
            cpu_us = _median(cost.cpu_us_per_task[role] for cost in group)
            share = _median(cost.cpu_us_per_task[role] * cost.tasks_per_s / 1e6 for cost in group)
            memory = _median(cost.memory_mb.get(role, 0.0) for cost in group)
            table.add_row(role, f"{cpu_us:,.1f}", f"{share:.0%}", f"{memory:,.0f}" if memory else "")
        console.print(table)


def latency_table(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=f"One task at a time, {found[0]['tasks']} of them, medians", title_justify="left")
    _columns(table, "", "p50, ms", "p99, ms")
    for name in (PEER, OURS):
        runs = [run for run in found if run["system"] == name]
        table.add_row(name, *(f"{_median(run[key] for run in runs):.2f}" for key in ("p50_ms", "p99_ms")))
    console.print(table)


def idle_table(found: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Nothing to do for {found['seconds']} s", title_justify="left")
    _columns(table, "process", "commands per second", "CPU, %", "memory, MB")
    for role, rate in found["commands_per_s"].items():
        table.add_row(role, f"{rate:.1f}", f"{found['cpu_percent'][role]:.1f}", f"{found['memory_mb'][role]:.0f}")
    console.print(table)


def backlog_table(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="With a backlog, medians", title_justify="left")
    _columns(table, "open at the beginning", "CPU µs per task", "tasks per second", "commands per task")
    for size in sorted({run["open"] for run in found}):
        runs = [run for run in found if run["open"] == size]
        cpu_us, rate, sent = (
            _median(run[key] for run in runs) for key in ("cpu_us_per_task_total", "tasks_per_s", "commands_per_task")
        )
        table.add_row(f"{size:,}", f"{cpu_us:,.0f}", f"{rate:,.0f}", f"{sent:.2f}")
    console.print(table)


OF_EVENTS = {
    "published per second": "published_per_s",
    "CPU of one, client and server, µs": "published_cpu_us",
    "acknowledged per second": "handled_per_s",
    "CPU of one to its acknowledgement, µs": "handled_cpu_us",
}


def events_table(found: dict[str, Any], console: Console) -> None:
    """Rates beside redis-py's, and memory while the stream has its full length, early and at the end."""
    ours, bare = found["stream"], found["bare"]
    table = Table(title=f"Agent stream: {found['events']:,} events, one process", title_justify="left")
    _columns(table, "", "redis-py alone", OURS, "ratio")
    for label, key in OF_EVENTS.items():
        table.add_row(label, f"{bare[key]:,.0f}", f"{ours[key]:,.0f}", f"{ours[key] / bare[key]:.2f}")
    console.print(table)
    for process, (early, late) in found["memory_mb"].items():
        console.print(f"memory of the {process}: {early:,.0f} MB early, {late:,.0f} MB at the end")


def bus_table(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="The event bus, CPU time of an event", title_justify="left")
    _columns(table, "", "median, µs", "least, µs")
    for row in found:
        table.add_row(row["what"], f"{row['us']:.1f}", f"{row['least_us']:.1f}")
    console.print(table)


def engine_table(found: list[dict[str, Any]], console: Console) -> None:
    """Rates of the two, and the ratio."""
    systems = list(dict.fromkeys(row["system"] for row in found))
    rates = {(row["load"], row["system"]): row["per_s"] for row in found}
    table = Table(title="Requests with replies in one process, a second, medians", title_justify="left")
    _columns(table, "", *systems, "ratio")
    for load in dict.fromkeys(row["load"] for row in found):
        peer, ours = (rates[load, system] for system in systems)
        table.add_row(load, f"{peer:,.0f}", f"{ours:,.0f}", f"{ours / peer:.2f}")
    console.print(table)


def levels_table(found: list[dict[str, Any]], console: Console) -> None:
    """Medians of the ratios of pairs."""
    table = Table(title="What it costs to tell, beside level off", title_justify="left")
    _columns(table, "tasks that tell", "level", "pairs", "tasks per second", "CPU per task")
    for row in found:
        ratios = (f"{_median(row[key]):.2f} ({min(row[key]):.2f} to {max(row[key]):.2f})" for key in ("rates", "cpu"))
        table.add_row(row["handler"], row["level"], str(len(row["cpu"])), *ratios)
    console.print(table)


def explain_table(found: dict[str, Any], console: Console) -> None:
    """What looks take by the number of open tasks and of agents, and a turn of the queue by that and by tenants."""
    for what, looks in (("open tasks", found["by_tasks"]), ("agents", found["by_agents"])):
        table = Table(title=f"Looks with so many {what}, p50 / p99 / least CPU in ms", title_justify="left")
        _columns(table, what, *next(iter(looks.values())))
        for count, by_look in looks.items():
            cells = (f"{p50:.1f} / {p99:.1f} / {cpu:.1f}" for p50, p99, cpu in by_look.values())
            table.add_row(f"{count:,}", *cells)
        console.print(table)
    turns = Table(title="One task comes to the dispatch queue and one goes, µs", title_justify="left")
    _columns(turns, "waiting tasks", *(f"{tenants:,} tenant(s)" for tenants in found["turns"]))
    for count in found["by_tasks"]:
        turns.add_row(f"{count:,}", *(f"{by_count[count]:.1f}" for by_count in found["turns"].values()))
    console.print(turns)


def full_house_table(found: dict[str, float], console: Console) -> None:
    """Each number by its name, which tells its unit."""
    table = Table(title="A great many agents and open tasks at once", title_justify="left")
    _columns(table, "", "")
    for name, number in found.items():
        *words, unit = name.split("_")
        table.add_row(" ".join(words), f"{number:,.1f} {unit.replace('mb', 'MB')}")
    console.print(table)


def sight_table(found: list[dict[str, Any]], console: Console) -> None:
    """Medians of the ratios of pairs."""
    table = Table(title="What it costs to be seen, beside not being seen", title_justify="left")
    _columns(table, "who looks", "pairs", "tasks per second", "CPU per task")
    for row in found:
        ratios = (f"{_median(row[key]):.2f} ({min(row[key]):.2f} to {max(row[key]):.2f})" for key in ("rates", "cpu"))
        table.add_row(row["looking"], str(len(row["cpu"])), *ratios)
    console.print(table)


def herd_table(found: dict[str, float], console: Console) -> None:
    """What a herd of heartbeats costs."""
    table = Table(title="A thousand heartbeats at once, each second", title_justify="left")
    _columns(table, "slowest task of a second, ms", "of the server's core", "all written in, ms")
    slowest = f"{found['calm_slowest_s'] * 1000:.0f} without, {found['beaten_slowest_s'] * 1000:.0f} with"
    table.add_row(slowest, f"{found['server_busy']:.1%}", f"{found['beats_written_s'] * 1000:.0f}")
    console.print(table)


def gateway_tables(found: dict[str, Any], console: Console) -> None:
    """What HTTP costs; medians of the repetitions."""

    def of(part: str, *names: str) -> float:
        values = found[part]
        for name in names:
            values = [value[name] for value in values]
        return _median(values)

    table = Table(title="A gateway, beside the client library", title_justify="left")
    _columns(table, "", "library", "HTTP", "HTTP / library")
    for label, part, form in (("tasks submitted a second", "submitted", ",.0f"), ("a run, p50 in ms", "runs", ".1f")):
        library, http = of(part, "library"), of(part, "http")
        table.add_row(label, f"{library:{form}}", f"{http:{form}}", f"{http / library:.2f}")
    console.print(table)
    table = Table(title="A gateway, beside a bare FastAPI application", title_justify="left")
    _columns(table, "", "bare", "gateway", "gateway / bare")
    for label, name, form in (("requests a second", "per_s", ",.0f"), ("p99 in ms", "p99_ms", ".1f")):
        bare, ours = of("requests", "bare", name), of("requests", "gateway", name)
        table.add_row(label, f"{bare:{form}}", f"{ours:{form}}", f"{ours / bare:.2f}")
    console.print(table)
    console.print(f"1,000 streams of events: {found['streams_mb']:.0f} MB")


def local_table(found: dict[str, list[float]], console: Console) -> None:
    """What a hierarchy in one process takes; medians."""
    start, task, memory, redis = (_median(found[name]) for name in ("start_ms", "task_ms", "memory", "redis"))
    table = Table(title="A hierarchy in one process", title_justify="left")
    _columns(table, "there after, ms", "a task of a test, ms", "tasks a second on memory", "on Redis", "ratio")
    table.add_row(f"{start:.0f}", f"{task:.0f}", f"{memory:,.0f}", f"{redis:,.0f}", f"{memory / redis:.2f}")
    console.print(table)


def rehearsal_table(found: list[dict[str, Any]], console: Console) -> None:
    """Medians."""
    table = Table(title="Rehearsals, on one core", title_justify="left")
    _columns(table, "scenario", "tasks", "CPU, s", "simulated tasks a second")
    for row in found:
        cpu_s = _median(row["cpu_s"])
        table.add_row(row["scenario"], f"{row['tasks']:,}", f"{cpu_s:.2f}", f"{row['tasks'] / cpu_s:,.0f}")
    console.print(table)


def scheduling_table(found: list[dict[str, Any]], console: Console) -> None:
    """Microseconds for each task that is placed, by strategy and by how many are open."""
    sizes = sorted({cost["open"] for cost in found})
    table = Table(title="A task is placed among 1,000 agents, µs", title_justify="left")
    _columns(table, "strategy", *(f"of {size:,}" for size in sizes))
    for strategy in dict.fromkeys(cost["strategy"] for cost in found):
        of_it = {cost["open"]: cost["us"] for cost in found if cost["strategy"] == strategy}
        table.add_row(strategy, *(f"{of_it[size]:.1f}" for size in sizes))
    console.print(table)


#: By part: what is measured, its key, and how it is written.
OF_AGENTS = {
    "trivial": [("runs a second", "runs_per_s", ",.0f"), ("CPU of a run, ms", "cpu_ms", ".2f")],
    "waiting": [("all done after, s", "took_s", ".2f")],
    "first_chunk": [("chunk told until seen, p50, ms", "p50_ms", ".1f"), ("the slowest, ms", "max_ms", ".1f")],
}


def agents_tables(found: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """Runs of graphs beside LangGraph alone in one process, and where the time of a run goes."""
    table = Table(title="Runs of LangGraph graphs, medians", title_justify="left")
    _columns(table, "", ALONE, OURS, "ratio")
    for part, rows in OF_AGENTS.items():
        for runs in sorted({run.get("runs", 0) for run in found[part]}):
            mine, alone = (
                [run for run in found[part] if run["system"] == name and run.get("runs", 0) == runs]
                for name in (OURS, ALONE)
            )
            for label, key, form in rows:
                a, b = (_median(run[key] for run in group) for group in (alone, mine))
                table.add_row(
                    f"{runs:,} waiting: {label}" if runs else label, f"{a:{form}}", f"{b:{form}}", f"{b / a:.2f}"
                )
            if runs:
                memory = _median(run["memory_mb"] for run in mine)
                table.add_row(f"{runs:,} waiting: memory above idle, MB", "", f"{memory:,.0f}", "")
    mine = [run for run in found["trivial"] if run["system"] == OURS]
    singly = [run for run in found["trivial"] if run["system"] == SINGLY]
    for label, key, form in OF_AGENTS["trivial"]:
        a, b = (_median(run[key] for run in group) for group in (singly, mine))
        table.add_row(f"{label}; alone one after the other", f"{a:{form}}", f"{b:{form}}", f"{b / a:.2f}")
    console.print(table)
    table = Table(title="A trivial run: where the time goes", title_justify="left")
    _columns(table, "process", "CPU ms per run")
    for role in mine[0]["cpu_ms_by_role"]:
        table.add_row(role, f"{_median(run['cpu_ms_by_role'][role] for run in mine):.2f}")
    console.print(table)


def waiting_table(found: dict[str, Any], console: Console) -> None:
    """Before and with them, in medians over the rounds of one run, and how long they took to ask."""
    before, beside = found["before"], found["beside"]
    title = (
        f"{found['waiting']:,} tasks ask, opened in {found['opened_s']:,.0f} s; no-op tasks, medians of {len(before)}"
    )
    table = Table(title=title, title_justify="left")
    _columns(table, "", "before", "beside them", "ratio")
    rows = {"tasks per second": "tasks_per_s", "CPU per task, µs": "cpu_us_per_task_total"}
    for label, key in rows.items():
        a, b = (_median(cost[key] for cost in costs) for costs in (before, beside))
        table.add_row(label, f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}")
    for role in before[0]["cpu_us_per_task"]:
        a, b = (_median(cost["cpu_us_per_task"][role] for cost in costs) for costs in (before, beside))
        table.add_row(f"CPU of the {role}, µs", f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}")
    console.print(table)


#: What was beside the tasks, and what people call it.
BESIDE = {"alone": "nothing beside them", "deaf": "runs that nobody hears", "streams": "streams"}


def streams_table(found: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """What tasks notice of streams, where the time of a chunk goes, and how old chunks are when their client has
    them."""
    told = found["streams"]
    runs, chunks = told[0]["first"]["count"], told[0]["all"]["count"]
    title = f"{runs} runs tell {chunks:,} chunks; a steady load of tasks, medians of {len(told)}"
    table = Table(title=title, title_justify="left")
    _columns(table, "", *BESIDE.values(), "to nothing", "to runs that nobody hears")
    rows: list[tuple[str, Callable[[dict[str, Any]], float], str]] = [
        ("tasks per second", lambda one: one["tasks_per_s"], ",.0f"),
        ("a task, p50, ms", lambda one: one["p50_ms"], ",.1f"),
        ("a task, p99, ms", lambda one: one["p99_ms"], ",.1f"),
        ("Redis commands a second", lambda one: one["commands_per_s"], ",.0f"),
        ("CPU of all processes, % of a core", lambda one: sum(one["cpu_percent"].values()), ",.0f"),
    ]
    for label, value, form in rows:
        alone, deaf, streams = (_median(map(value, found[name])) for name in BESIDE)
        numbers = (f"{number:{form}}" for number in (alone, deaf, streams))
        table.add_row(label, *numbers, f"{streams / alone:.2f}", f"{streams / deaf:.2f}")
    console.print(table)
    table = Table(title="A chunk: CPU beyond that of runs which nobody hears", title_justify="left")
    _columns(table, "process", "µs per chunk")
    beyond_us = 0.0
    for role in told[0]["cpu_us_per_chunk"]:
        heard, deaf = (_median(one["cpu_us_per_chunk"][role] for one in found[name]) for name in ("streams", "deaf"))
        table.add_row(role, f"{heard - deaf:.1f}")
        beyond_us += heard - deaf
    table.add_row("all of them", f"{beyond_us:.1f}")
    table.add_row("LangGraph alone, in one process", f"{_median(one['cpu_us'] for one in found['langgraph']):.1f}")
    console.print(table)
    table = Table(title=f"A chunk, from the graph to its client; {sum(one['missing'] for one in told)} are missing")
    _columns(table, "", "p50, ms", "p99, ms", "the slowest")
    for label, which in (("the first of a run", "first"), ("all", "all")):
        table.add_row(
            label, *(f"{_median(one[which][key] for one in told):.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
        )
    console.print(table)


def registry_table(found: dict[str, Any], console: Console) -> None:
    """What each question takes, by the number of agents."""
    costs: dict[str, dict[str, dict[str, float]]] = found["costs"]
    counts = list(next(iter(costs.values())))
    table = Table(title=f"Registry: p50 / p99 / CPU of {found['looks']} questions, ms", title_justify="left")
    _columns(table, "registered agents", *(f"{int(count):,}" for count in counts))
    for name, by_count in costs.items():
        table.add_row(name, *(" / ".join(f"{ms:.2f}" for ms in by_count[count].values()) for count in counts))
    console.print(table)
    cleared = found["cleared"]
    console.print(
        f"Removing {cleared['agents']:,.0f} that have died at once takes {cleared['calls']:.0f} calls, CPU"
        f" {cleared['cpu_ms_a_call']:.1f} ms each"
    )


def summary(costs: list[Cost]) -> dict[str, Any]:
    """The medians that people quote."""
    peer, ours = _of(costs, PEER), _of(costs, OURS)
    rate = {name: _median(cost.tasks_per_s for cost in group) for name, group in ((PEER, peer), (OURS, ours))}
    return {
        "tasks_per_s": rate,
        "ratio": rate[OURS] / rate[PEER],
        "ratios_by_turn": [mine.tasks_per_s / theirs.tasks_per_s for theirs, mine in zip(peer, ours, strict=True)],
        "cpu_us_per_task": {
            name: _median(cost.cpu_us_per_task_total for cost in group) for name, group in ((PEER, peer), (OURS, ours))
        },
        "commands_per_task": {
            name: _median(cost.commands_per_task for cost in group) for name, group in ((PEER, peer), (OURS, ours))
        },
    }


def _of(costs: list[Cost], system: str) -> list[Cost]:
    return [cost for cost in costs if cost.system == system]


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _columns(table: Table, first: str, *others: str) -> None:
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
