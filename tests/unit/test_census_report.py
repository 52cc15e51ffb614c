"""What is told of a census: the report, the two pictures, the live view."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from worker.census.hierarchy_picture import AgentBox, Traffic, hierarchy_svg
from worker.census.hotspot import Hotspot
from worker.census.live import AgentRow, LiveView, Snapshot, wants_decoration
from worker.census.measure import Totals
from worker.census.merge import Census
from worker.census.report import Report, TaskCounts, report_json, report_markdown, write_report
from worker.census.timeline import WIDTH, Attempt, Mark, timeline_svg
from worker.census.verify import Comparison, comparison_table, is_verified

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&\"'\x07"
SPOT = Hotspot(
    path="a|b`c.py", line=7, function="f", complexity=11, length=20, depth=2, why="11 = 1 + 10 if", suggestion="Cut it."
)


def report(*comparisons: Comparison) -> Report:
    census = Census(totals=Totals(files=3, complex=1), inputs_sha256="ab" * 32, hotspots=(SPOT,), chunks=2)
    return Report("/tree", census, comparisons, TaskCounts(4, 4, 0, 1), 1.23456)


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---- the report ----


def test_report_json_has_exactly_the_fields_that_are_promised() -> None:
    told = json.loads(json.dumps(report_json(report(Comparison("files", 3, 3, "find")))))
    assert " ".join(told) == (
        "files lines bytes functions classes unparsable complex inputs_sha256 hotspots tasks wall_s verified"
    )
    assert told["tasks"] == {"total": 4, "completed": 4, "failed": 0, "retried": 1}
    assert (told["wall_s"], told["verified"]) == (1.235, True)


def test_a_name_with_bars_and_backticks_stays_in_its_cell_of_the_page() -> None:
    assert "| `` a\\|b`c.py:7 `` | `f` | 11 | 11 = 1 + 10 if | Cut it. |" in report_markdown(report())


def test_the_page_says_when_the_totals_are_not_confirmed() -> None:
    assert "**not verified**" in report_markdown(report(Comparison("files", 3, 4, "find")))


def test_the_report_is_written_with_its_pictures(tmp_path: Path) -> None:
    written = write_report(report(), tmp_path / "new" / "dir", {"timeline.svg": "<svg/>"})
    assert [path.name for path in written] == ["report.md", "report.json", "timeline.svg"]
    assert all(path.stat().st_size for path in written)


@pytest.mark.parametrize(
    ("theirs", "verified"), [([3], True), ([3, None], True), ([3, 4], False), ([None], False), ([], False)]
)
def test_a_census_is_verified_when_something_was_compared_and_all_of_it_is_equal(
    theirs: list[int | None], verified: bool
) -> None:
    assert is_verified([Comparison("files", 3, value, "find") for value in theirs]) is verified


def test_the_table_of_what_was_compared_says_why_something_was_not() -> None:
    table = comparison_table(
        [Comparison("files", 1234, 1235, "find"), Comparison("complex", 1, None, "ruff", "absent")]
    )
    assert [line.split() for line in table[1:]] == [
        ["files", "1,234", "1,235", "NO", "find"],
        ["complex", "1", "-", "-", "ruff:", "absent"],
    ]


# ---- the timeline ----


def test_each_worker_has_a_lane_and_each_attempt_a_bar_that_says_what_it_was() -> None:
    svg = timeline_svg(
        [
            Attempt("t1", "review", "worker-10", 1, 100.0, 101.0, "completed"),
            Attempt("t2", "review", "worker-2", 1, 100.0, 100.5, "lost"),
            Attempt("t2", "review", "worker-10", 2, 101.0, 102.0, "completed"),
        ],
        [Mark(100.5, "worker-2 killed")],
    )
    shown = texts(svg)
    assert shown.index("worker-2") < shown.index("worker-10")
    assert {"worker-2 killed", "lost", "attempt 2", "3 attempts by 2 workers in 2.0 s, 1 lost and done again"} <= {
        *shown
    }
    assert "t2 (review), attempt 1, lost after 0.50 s" in svg


def test_attempts_that_overlap_on_one_worker_lie_below_each_other() -> None:
    overlapping = [Attempt(f"t{n}", "review", "w", 1, 0.0, 1.0, "completed") for n in range(3)]
    bars = re.findall(r'<title>t\d .*?<rect x="[^"]*" y="([^"]*)"', timeline_svg(overlapping))
    assert len(set(bars)) == 3


def test_pictures_carry_hostile_names_as_text_only() -> None:
    for svg in (
        timeline_svg([Attempt(HOSTILE, HOSTILE, HOSTILE, 1, 0, 1, "failed")], [Mark(0.5, HOSTILE)], HOSTILE),
        hierarchy_svg(
            [AgentBox("top", HOSTILE, None), AgentBox(HOSTILE, "worker", "top", {HOSTILE: HOSTILE}, HOSTILE)],
            [Traffic("top", HOSTILE, HOSTILE, 1)],
            HOSTILE,
        ),
    ):
        assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.7, 9.99, 61.0, 86_400.0])
def test_an_axis_of_any_length_has_a_handful_of_ticks(seconds: float) -> None:
    shown = texts(timeline_svg([Attempt("t", "review", "w", 1, 5.0, 5.0 + seconds, "completed")]))
    ticks = [one for one in shown if re.fullmatch(r"\d+(\.\d+)?", one)]
    assert 5 <= len(ticks) <= 14
    assert len(set(ticks)) == len(ticks)


def test_no_attempts_give_a_picture_all_the_same() -> None:
    assert "0 attempts by 0 workers in 1.0 s" in texts(timeline_svg([]))


def test_the_labels_of_marks_stay_inside_the_picture() -> None:
    marks = [Mark(at, f"something happened to a worker at {at}") for at in (0.0, 0.1, 9.9, 10.0)]
    svg = timeline_svg([Attempt("t", "review", "w", 1, 0, 10, "completed")], marks)
    grounds = [
        (float(x), float(width))
        for x, width in re.findall(r'<rect x="([^"]*)" y="[^"]*" width="([^"]*)" height="16"', svg)
    ]
    assert len(grounds) == len(marks)
    assert all(x >= 0 and x + width <= WIDTH for x, width in grounds)


# ---- the hierarchy ----


def test_an_edge_is_labelled_with_the_messages_of_each_action_and_direction() -> None:
    boxes = [AgentBox("c", "coordinator", None), AgentBox("d", "distributor", "c", {"done": 3})]
    shown = texts(hierarchy_svg(boxes, [Traffic("c", "d", "assign_task", 1200), Traffic("d", "c", "heartbeat", 7)]))
    assert {"▼ assign_task 1,200", "▲ heartbeat 7", "c", "d", "done", "3"} <= {*shown}


def test_boxes_of_one_tier_never_overlap() -> None:
    boxes = [AgentBox("c", "coordinator", None)]
    boxes += [AgentBox(f"d{d}", "distributor", "c") for d in range(3)]
    boxes += [AgentBox(f"w{d}{w}", "worker", f"d{d}") for d in range(3) for w in range(2 * d)]
    svg = hierarchy_svg(boxes, [Traffic("c", f"d{d}", "an_action_with_quite_a_long_name", 5) for d in range(3)])
    tiers: dict[str, list[float]] = {}
    for x, y in re.findall(r'<rect x="([^"]*)" y="([^"]*)" width="168" height="5"', svg):
        tiers.setdefault(y, []).append(float(x))
    assert [len(tier) for tier in tiers.values()] == [1, 3, 6]
    assert all(after - before >= 168 for tier in tiers.values() for before, after in pairwise(tier))


# ---- the live view ----


def snapshot(done: int, state: str = "active") -> Snapshot:
    return Snapshot([AgentRow("worker-1", "worker", state, 2, done, 0, 1.5)], done=done, total=10)


def test_without_a_terminal_progress_is_a_plain_line_at_most_once_a_second() -> None:
    stream = io.StringIO()
    with LiveView(stream, decorated=False) as view:
        for number in range(21):
            view.show(snapshot(number // 2), now_s=number / 10)
        view.say("killed worker-1")
    lines = [re.sub(r"^ *[\d.]+ s  ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "0/10 tasks, 0 failed, worker-1 0 done",
        "5/10 tasks, 0 failed, worker-1 5 done",
        "10/10 tasks, 0 failed, worker-1 10 done",
        "killed worker-1",
    ]


def test_the_last_snapshot_is_shown_however_soon_it_comes() -> None:
    stream = io.StringIO()
    with LiveView(stream, decorated=False) as view:
        view.show(snapshot(1), now_s=0.0)
        view.show(snapshot(2, "gone"), now_s=0.01)
    assert stream.getvalue().splitlines()[-1].endswith("2/10 tasks, 0 failed, worker-1 2 done (gone)")


def test_on_a_terminal_the_agents_are_a_table() -> None:
    stream = Terminal()
    with LiveView(stream, decorated=True) as view:
        view.show(snapshot(3), now_s=0.0)
        view.say("killed [worker-1]")
    assert "in flight" in stream.getvalue()
    assert "killed [worker-1]" in stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"CI": "true"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_only_a_terminal_that_nobody_wants_plain_is_decorated(
    stream: io.StringIO, environment: dict[str, str], wanted: bool
) -> None:
    assert wants_decoration(stream, environment) is wanted
