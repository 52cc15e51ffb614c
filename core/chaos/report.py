"""The report on a run: a few lines for people, JSON, and a picture. `core.chaos.recovery` defines the recovery
times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from core.chaos.agent_judge import AgentCounts
from core.chaos.injector import Kind
from core.chaos.judge import Verdict
from core.chaos.run_record import Phases, Recovery, RunRecord
from core.chaos.timeline import timeline_svg
from core.pictures.table import plain_lines

__all__ = ["Report", "recovery_times", "report_json", "report_svg", "report_text"]

TIERS = ("coordinator", "distributor", "worker", "server")
#: Number of names that are printed for a kind of finding; the JSON has all.
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Report:
    """The report on one run."""

    command: str  #: the command that repeats the run
    seed: int
    seconds: float  #: the requested duration
    interval_s: float
    kinds: frozenset[Kind]
    record: RunRecord
    phases: Phases
    verdict: Verdict
    interrupted: bool  #: whether somebody ended it early

    @property
    def calm(self) -> float:
        """Tasks a second without faults."""
        return self.record.rate(self.phases.ready_s, self.phases.calm_s)

    @property
    def faulty(self) -> float:
        """Tasks a second with faults."""
        return self.record.rate(self.phases.calm_s, self.phases.faults_s)

    @property
    def share(self) -> float:
        """The throughput with faults, as a share of the throughput without."""
        return self.faulty / self.calm if self.calm else 0.0

    @property
    def exit_code(self) -> int:
        """0 if faults were injected, nothing was lost or doubled, and all invariants held; otherwise 1."""
        return 0 if self.verdict.accepted and self.record.injected and not self.findings else 1

    @property
    def findings(self) -> dict[str, Sequence[str]]:
        """The findings, by kind."""
        verdict = self.verdict
        found: dict[str, Sequence[str]] = {
            "lost": verdict.lost,
            "untold": verdict.untold,
            "double": verdict.double,
            "failed": verdict.failed,
            "broken": verdict.broken,
            "left": [f"{key}: {count}" for key, count in verdict.left.items()],
            "crashed": [
                f"{lane} with {code}" for lane, codes in self.record.exits.items() for code in codes if _crashed(code)
            ],
        }
        return {name: named for name, named in found.items() if named}


def recovery_times(recoveries: Sequence[Recovery]) -> dict[str, dict[str, float]]:
    """By tier, and over all tiers: the number of recoveries, and their median and maximum, in seconds."""
    by_tier = {tier: [recovery.took_s for recovery in recoveries if recovery.tier == tier] for tier in TIERS}
    everything = {"all": [recovery.took_s for recovery in recoveries], **by_tier}
    return {
        tier: {"count": len(times), "p50_s": round(median(times), 3), "max_s": round(max(times), 3)}
        for tier, times in everything.items()
        if times
    }


def report_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    verdict, phases = report.verdict, report.phases
    return {
        "clean": report.exit_code == 0,
        "command": report.command,
        "seed": report.seed,
        "seconds": report.seconds,
        "interval_s": report.interval_s,
        "kinds": [kind.value for kind in Kind if kind in report.kinds],
        "interrupted": report.interrupted,
        "tasks": {
            "accepted": verdict.accepted,
            "spawned": _spawned(verdict),
            "completed": verdict.ended - len(verdict.failed),
            "lost": len(verdict.lost),
            "double": len(verdict.double),
            "executions": verdict.executed,
            "executions_per_task": _per_task(verdict),
        },
        "agents": asdict(verdict.agents),
        "faults": report.record.faults_by_kind(),
        "takeovers": len(report.record.takeovers()),
        "recovery": recovery_times(report.record.recoveries),
        "throughput": {
            "calm_per_s": round(report.calm, 1),
            "faults_per_s": round(report.faulty, 1),
            "share": round(report.share, 3),
        },
        "phases_s": {
            "ready": round(phases.ready_s, 2),
            "calm": round(phases.calm_s - phases.ready_s, 2),
            "faults": round(phases.faults_s - phases.calm_s, 2),
            "drain": round(phases.drained_s - phases.faults_s, 2),
        },
        "findings": {name: list(found) for name, found in report.findings.items()},
        "exits": report.record.exits,
        "recoveries": [
            {"fault": str(recovery.fault), "tier": recovery.tier, "took_s": round(recovery.took_s, 3)}
            for recovery in sorted(report.record.recoveries, key=lambda recovery: -recovery.took_s)
        ],
        "injected": [
            {
                "at_s": round(injected.at_s, 3),
                "fault": str(injected.fault),
                "process": injected.lane,
                "acting": injected.acting,
            }
            for injected in report.record.injected
        ],
    }


def report_text(report: Report) -> list[str]:
    """The report as lines for a terminal."""
    verdict, record = report.verdict, report.record
    faults = ", ".join(f"{count} {kind}" for kind, count in record.faults_by_kind().items()) or "none"
    tasks = (
        f"{verdict.accepted} accepted and {_spawned(verdict)} spawned by them,"
        f" {verdict.ended - len(verdict.failed)} completed, {len(verdict.lost)} lost, {len(verdict.double)} double"
    )
    rows = [
        ("tasks", tasks),
        ("executions", f"{verdict.executed} of {len(verdict.executions)} tasks, {_per_task(verdict):.3f} per task"),
        *([("agents", _agents(verdict.agents))] if verdict.agents.runs else []),
        ("faults", f"{len(record.injected)}: {faults}"),
        ("takeovers", f"{len(record.takeovers())}"),
        ("throughput", f"{report.faulty:.0f}/s under faults, {report.calm:.0f}/s calm: {report.share:.0%}"),
    ]
    for tier, times in recovery_times(record.recoveries).items():
        if tier != "all":
            counted = f"{times['count']:.0f} time{'s' if times['count'] != 1 else ''}"
            rows.append(("recovery", f"{tier}: p50 {times['p50_s']:.2f} s, max {times['max_s']:.2f} s, {counted}"))
    if record.exits:
        exits = (_counted(lane, Counter(codes)) for lane, codes in sorted(record.exits.items()))
        rows.append(("exits", f"unasked, and started again: {'; '.join(exits)}"))
    for name, found in report.findings.items():
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        rows.append((name.upper(), f"{'; '.join(found[:SHOWN])}{more}"))
    rows.append(("again", report.command))
    return [*plain_lines(("", ""), rows), _conclusion(report)]


def report_svg(report: Report) -> str:
    """The report as a picture, in SVG."""
    verdict = report.verdict
    subtitle = (
        f"{verdict.accepted} tasks accepted, {len(verdict.lost)} lost, {len(verdict.double)} double;"
        f" {len(report.record.injected)} faults, {len(report.record.takeovers())} takeovers;"
        f" throughput {report.share:.0%} of calm"
    )
    return timeline_svg(report.record, report.phases, f"A run of agents chaos, seed {report.seed}", subtitle)


def _agents(counts: AgentCounts) -> str:
    return (
        f"{counts.runs} completed, {counts.nodes} nodes begun, {counts.answers} answers,"
        f" {counts.checkpoints} checkpoints, {counts.chunks} chunks streamed"
    )


def _spawned(verdict: Verdict) -> int:
    """The number of tasks that handlers have spawned: all that have ended or were lost, minus the accepted ones."""
    return max(0, verdict.ended + len(verdict.lost) - verdict.accepted)


def _per_task(verdict: Verdict) -> float:
    return round(verdict.executed / len(verdict.executions), 4) if verdict.executions else 0.0


def _counted(lane: str, codes: Counter[int]) -> str:
    return f"{lane} with {', '.join(f'{code} x {count}' for code, count in codes.items())}"


def _crashed(code: int) -> bool:
    """Whether an exit code is that of an unforeseen error; an agent that ends in an orderly way has another one."""
    return code == 1 or code < 0


def _conclusion(report: Report) -> str:
    so_far = " so far (it was interrupted)" if report.interrupted else ""
    if report.exit_code == 0:
        return f"NOTHING LOST: every accepted task ended once, and every invariant held{so_far}"
    if not report.verdict.accepted:
        return "NOTHING PROVED: no task was accepted"
    if not report.findings:
        return f"NOTHING PROVED: no fault was carried out{so_far}; try a shorter --interval"
    return f"NOT CLEAN: {', '.join(report.findings)}{so_far}; see above"
