"""What is told of a run under faults: the verdict's exit code, recovery times, the picture, the live view."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from core.chaos.agent_judge import AgentCounts
from core.chaos.injector import SERVER, Fault, Kind, Target
from core.chaos.judge import Verdict
from core.chaos.ledger import Entry
from core.chaos.live import AgentLine, ChaosView, Snapshot, sparkline
from core.chaos.recovery import server_recoveries, worker_recoveries
from core.chaos.report import Report, recovery_times, report_json, report_svg, report_text
from core.chaos.run_record import Hold, InjectedFault, Phases, Recovery, RunRecord

WORKER = Target("worker-1")
KILL = Fault(1.0, Kind.KILL, WORKER, 0.3)
CLEAN = Verdict(
    submitted=4,
    accepted=4,
    ended=5,
    lost=(),
    untold=(),
    double=(),
    failed=(),
    broken=(),
    left={},
    executions=Counter({"a": 2, "b": 1, "c": 1, "d": 1, "child": 1}),
    replies=Counter(),
    grants={},
    commits=10,
    agents=AgentCounts(),
)


def injected(fault: Fault, at_s: float = 1.0, pid: int = 7, healed_s: float | None = None) -> InjectedFault:
    return InjectedFault(fault, at_s, fault.target.agent_id, pid, acting=True, healed_s=healed_s)


def record() -> RunRecord:
    told = RunRecord(
        lanes=("server", "worker-1"), injected=[injected(KILL)], recoveries=[Recovery(KILL, "worker", 0.5)]
    )
    told.conditions.set("server", "up", 0.0)
    told.conditions.set("worker-1", "up", 0.0)
    told.conditions.set("worker-1", "down", 1.0)
    told.conditions.set("worker-1", "up", 1.3)
    told.links.set("worker-1", "cut", 2.0)
    told.conditions.close(4.0)
    told.links.close(4.0)
    told.holds = [Hold("worker-1", "worker-1", 1, 0.1, 1.3), Hold("worker-1", "worker-1", 2, 1.4, 4.0)]
    told.done_s = [0.6, 0.7, 0.8, 0.9, 2.0, 3.0, 3.5]
    return told


def report(verdict: Verdict = CLEAN, *, interrupted: bool = False) -> Report:
    return Report(
        command="agents chaos --seed 7",
        seed=7,
        seconds=3.0,
        interval_s=0.3,
        kinds=frozenset({Kind.KILL}),
        record=record(),
        phases=Phases(0.5, 1.0, 3.0, 4.0),
        verdict=verdict,
        interrupted=interrupted,
    )


# ---- the verdict ----


def test_a_clean_run_ends_with_0_and_says_so() -> None:
    assert report().exit_code == 0
    assert report_text(report())[-1].startswith("NOTHING LOST")


@pytest.mark.parametrize(
    ("finding", "word"),
    [
        ({"lost": ("chaos-7",)}, "LOST"),
        ({"untold": ("chaos-7",)}, "UNTOLD"),
        ({"double": ("chaos-7",)}, "DOUBLE"),
        ({"failed": ("chaos-7 abandoned",)}, "FAILED"),
        ({"broken": ("version 8 after 6",)}, "BROKEN"),
        ({"left": {"inbox": 3}}, "LEFT"),
    ],
)
def test_whatever_must_not_be_ends_with_1_and_is_named(finding: dict[str, Any], word: str) -> None:
    bad = report(replace(CLEAN, **finding))
    lines = report_text(bad)
    assert bad.exit_code == 1
    assert report_json(bad)["clean"] is False
    assert any(line.startswith(word) and str(next(iter(*finding.values()))) in line for line in lines), lines
    assert lines[-1] == f"NOT CLEAN: {word.lower()}; see above"


def test_a_run_in_which_nothing_was_accepted_proves_nothing() -> None:
    nothing = report(replace(CLEAN, accepted=0, ended=0))
    assert nothing.exit_code == 1
    assert report_text(nothing)[-1] == "NOTHING PROVED: no task was accepted"


def test_a_run_without_a_fault_proves_nothing() -> None:
    calm = replace(report(), record=RunRecord(lanes=("server",)))
    assert calm.exit_code == 1
    assert report_json(calm)["clean"] is False
    assert report_text(calm)[-1].startswith("NOTHING PROVED: no fault was carried out")


def test_who_ended_unasked_is_told_and_is_a_finding_if_it_crashed() -> None:
    away, crashed = report(), report()
    away.record.exits = {"worker-1": [69, 69]}
    crashed.record.exits = {"worker-1": [69, 1], "worker-2": [-11]}

    assert away.exit_code == 0
    assert "exits       unasked, and started again: worker-1 with 69 x 2" in report_text(away)
    assert crashed.exit_code == 1
    assert "CRASHED     worker-1 with 1; worker-2 with -11" in report_text(crashed)
    assert report_json(crashed)["exits"] == {"worker-1": [69, 1], "worker-2": [-11]}


def test_many_findings_are_counted_where_they_are_not_shown() -> None:
    lines = report_text(report(replace(CLEAN, lost=tuple(f"chaos-{n}" for n in range(9)))))
    assert "LOST        chaos-0; chaos-1; chaos-2; chaos-3; chaos-4 and 4 more" in lines


def test_an_interrupted_run_says_that_its_verdict_is_one_so_far() -> None:
    assert "so far (it was interrupted)" in report_text(report(interrupted=True))[-1]


def test_the_json_has_the_numbers_and_the_command_that_does_it_again() -> None:
    told = json.loads(json.dumps(report_json(report())))
    assert told["tasks"] == {
        "accepted": 4,
        "spawned": 1,
        "completed": 5,
        "lost": 0,
        "double": 0,
        "executions": 6,
        "executions_per_task": 1.2,
    }
    assert told["throughput"] == {"calm_per_s": 8.0, "faults_per_s": 0.5, "share": 0.062}
    assert told["recovery"] == {tier: {"count": 1, "p50_s": 0.5, "max_s": 0.5} for tier in ("all", "worker")}
    assert (told["faults"], told["takeovers"], told["seed"]) == ({"kill": 1}, 1, 7)
    assert told["command"] == "agents chaos --seed 7"


# ---- recovery ----


def entry(kind: str, task_id: str, at_s: float, pid: int, execution: str) -> Entry:
    return Entry(kind, task_id, int(at_s * 1e9), pid, {"execution": execution})


def test_a_killed_worker_has_recovered_when_the_last_of_its_executions_began_elsewhere() -> None:
    entries = [
        entry("began", "done before", 0.1, 7, "1"),
        entry("ended", "done before", 0.2, 7, "1"),
        entry("began", "first", 0.8, 7, "2"),
        entry("began", "second", 0.9, 7, "3"),
        entry("began", "of another", 0.9, 8, "4"),
        entry("began", "first", 1.5, 8, "5"),
        entry("began", "second", 3.0, 8, "6"),
        entry("began", "of another", 9.0, 9, "7"),
    ]
    assert worker_recoveries([injected(KILL)], entries, 0) == [Recovery(KILL, "worker", 2.0)]


def test_a_stopped_worker_that_goes_on_with_its_task_has_recovered() -> None:
    stop = Fault(1.0, Kind.STOP, WORKER, 1.0)
    entries = [entry("began", "a", 0.9, 7, "1"), entry("ended", "a", 2.1, 7, "1")]
    [recovery] = worker_recoveries([injected(stop)], entries, 0)
    assert recovery.took_s == pytest.approx(1.1)


def test_a_recovery_that_a_fault_of_the_server_disturbed_is_not_counted() -> None:
    entries = [entry("began", "a", 0.9, 7, "1"), entry("began", "a", 3.0, 8, "2")]
    server = injected(Fault(2.0, Kind.SERVER_KILL, SERVER, 0.5), at_s=2.0)
    assert worker_recoveries([injected(KILL), server], entries, 0) == []


def test_a_worker_that_executed_nothing_interrupted_nothing() -> None:
    assert worker_recoveries([injected(KILL)], [entry("began", "a", 1.2, 7, "1")], 0) == []


def test_the_server_has_recovered_when_it_is_back_and_a_client_hears_of_an_end() -> None:
    fault = Fault(1.0, Kind.SERVER_KILL, SERVER, 0.5)
    [recovery] = server_recoveries([injected(fault, healed_s=1.5)], [1.2, 2.25, 2.5])
    assert recovery.took_s == 0.75


def test_recovery_times_tell_the_median_and_the_worst_of_each_tier() -> None:
    told = recovery_times([Recovery(KILL, "worker", took_s) for took_s in (0.1, 0.2, 5.0)])
    assert told == {tier: {"count": 3, "p50_s": 0.2, "max_s": 5.0} for tier in ("all", "worker")}


# ---- the record ----


def test_who_takes_a_lease_after_another_or_after_its_own_death_has_taken_over() -> None:
    assert [hold.epoch for hold in record().takeovers()] == [2]


def test_rates_count_the_ends_of_each_stretch_of_time() -> None:
    assert record().rates(4.0, 1.0) == [4.0, 0.0, 1.0, 2.0]


# ---- the picture ----


def test_the_picture_names_every_lane_and_tells_what_each_mark_means() -> None:
    root = ElementTree.fromstring(report_svg(report()))
    svg = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{svg}text")]
    hints = [element.text for element in root.iter(f"{svg}title")]
    assert {"server", "worker-1", "calm", "faults", "drain", "calm 8/s"} <= set(texts)
    assert "kill worker-1 for 0.3 s, at 1.0 s" in hints
    assert "worker-1: cut, 2.0 to 4.0 s" in hints
    assert "worker-1 took over worker-1 at 1.4 s with fence 2" in hints


def test_the_picture_of_a_run_that_was_ended_at_once_is_a_picture_all_the_same() -> None:
    empty = replace(report(), record=RunRecord(), phases=Phases(0.0, 0.0, 0.0, 0.0))
    assert ElementTree.fromstring(report_svg(empty)).tag.endswith("svg")
    assert empty.share == 0.0


# ---- the live view ----

SNAPSHOT = Snapshot(
    phase="faults",
    elapsed_s=12,
    total_s=60,
    server="stopped",
    agents=(
        AgentLine("coordinator-1", (("coordinator-1", "down"), ("coordinator-1b", "acts")), 12, 2),
        AgentLine("worker-1", (("worker-1", "acts"),), 9, 1),
    ),
    last_faults=("  11.2 s  kill coordinator-1 for 0.3 s",),
    faults=4,
    open=50,
    done=1000,
    rates=(100.0, 50.0),
    calm=90.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_says_how_far_it_is_and_who_is_ill() -> None:
    stream = io.StringIO()
    with ChaosView(stream, decorated=False) as view:
        view.show(SNAPSHOT)
    assert (
        "faults    50 open, 1000 done, 50/s, 4 faults, 3 takeovers, server stopped, coordinator-1 down"
        in stream.getvalue()
    )


def test_on_a_terminal_it_shows_who_acts_with_which_fence_and_the_last_faults() -> None:
    stream = Terminal()
    with ChaosView(stream, decorated=True) as view:
        view.show(SNAPSHOT)
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", stream.getvalue())
    for words in ("coordinator-1b acts", "12", "kill coordinator-1 for 0.3 s", "50/s (calm 90)", "server stopped"):
        assert words in shown


@pytest.mark.parametrize(("values", "drawn"), [((), ""), ((0, 0), "  "), ((0, 4, 8), " ▄█"), ((1, 1), "██")])
def test_a_sparkline_is_as_high_as_its_values_beside_the_largest(values: tuple[float, ...], drawn: str) -> None:
    assert sparkline(values) == drawn
