"""What is told of a census: the report, the two pictures, the live view."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.pictures.hierarchy import AgentBox, Traffic, hierarchy_svg
from core.pictures.live import AgentRow, LiveView, Snapshot, wants_decoration
from core.pictures.task_lanes import WIDTH, Attempt, Mark, timeline_svg
from core.printable import printable
from examples.census import demo
from examples.census.hotspot import Hotspot
from examples.census.measure import Totals
from examples.census.merge import Census
from examples.census.report import Report, TaskCounts, report_json, report_markdown, write_report
from examples.census.verify import Comparison, comparison_table, is_verified

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&\"'\x07\n\x1b[2J\x9b\u202e\ud800\ufffeFORGED"
SPOT = Hotspot(
    path="a|b`c.py", line=7, function="f", complexity=11, length=20, depth=2, why="11 = 1 + 10 if", suggestion="Cut it."
)


def report(*comparisons: Comparison, spot: Hotspot = SPOT, root: str = "/tree", checksum: str = "ab" * 32) -> Report:
    census = Census(totals=Totals(files=3, complex=1), inputs_sha256=checksum, hotspots=(spot,), chunks=2)
    return Report(root, census, comparisons, TaskCounts(4, 4, 0, 1), 1.23456)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


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


def cells(page: str) -> list[str]:
    """What a reader sees in the first row of hot spots; no HTML of the page's own is live anywhere."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    assert not [part for token in tokens for part in (token, *(token.children or ())) if part.type.startswith("html")]
    last_table = max(at for at, token in enumerate(tokens) if token.type == "tbody_open")
    inside = [token.children or () for token in tokens[last_table:] if token.type == "inline"][:5]
    return ["".join(child.content for child in children) for children in inside]


@pytest.mark.parametrize(
    "name",
    [
        "a|b`c.py",
        "``<img src=x onerror=alert(1)>.py",
        "`` `<img src=x>` ``.py",
        "`|<img src=x>|``.py",
        r"a\|<img src=x>\\|`\|<b>.py",
        "![x](http://x)<!--.py",
    ],
)
def test_no_name_leaves_its_cell_of_the_page_or_brings_html_to_life(name: str) -> None:
    spot = SPOT.model_copy(update={"path": name, "function": name})
    assert cells(report_markdown(report(spot=spot, root=name))) == [
        f"{name}:7", name, "11", "11 = 1 + 10 if", "Cut it.",
    ]  # fmt: skip


def test_a_line_end_in_a_name_begins_no_line_of_the_page() -> None:
    spot = SPOT.model_copy(update={"path": "a\n\n<img src=x>\x1b[2J", "why": "1\r\n<hr>\n# Forged"})
    where, _, _, why, _ = cells(report_markdown(report(spot=spot, root="\n```\n<img src=x>")))
    assert (where, why) == (r"a\n\n<img src=x>\x1b[2J:7", r"1\r\n<hr>\n# Forged")


def test_what_a_suggestion_quotes_is_code_and_nothing_else_in_it_is_markup() -> None:
    spot = SPOT.model_copy(update={"suggestion": "Move `a|b` and `d['` <img src=x> '` **now**."})
    page = report_markdown(report(spot=spot))
    assert "Move `a`&#124;`b` and `d['` &#60;img" in page
    assert cells(page)[-1] == "Move a|b and d[' <img src=x> '` **now**."


def test_a_checksum_that_a_worker_made_up_does_not_leave_its_block() -> None:
    page = report_markdown(report(Comparison("inputs_sha256", "\n```\n<hr>", "00", "sha256sum"), checksum="`<hr>`\n"))
    assert cells(page)


MARKUP = st.text(st.sampled_from("`|\\<>&!*_[]()\n\r\t\x1b ai"), max_size=30)


def without(what: str, text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, what)))


@given(MARKUP, MARKUP, MARKUP)
@settings(max_examples=200, deadline=None)
def test_a_row_tells_all_that_it_is_given_in_its_cells_whatever_that_is(name: str, why: str, suggestion: str) -> None:
    spot = SPOT.model_copy(update={"path": name, "function": name, "why": why, "suggestion": suggestion})
    where, function, _, why_told, suggested = cells(report_markdown(report(spot=spot, root=name, checksum=name)))
    for told, all_of_it in ((where, f"{name}:7"), (function, name)):
        assert without(" ", told) == without(" ", printable(all_of_it))
    for told, all_of_it in ((why_told, why), (suggested, suggestion)):
        assert without(" `", told) == without(" `", printable(all_of_it))


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
        assert all(text.isprintable() for text in texts(svg))
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.7, 9.99, 61.0, 86_400.0])
def test_an_axis_of_any_length_has_a_handful_of_ticks(seconds: float) -> None:
    shown = texts(timeline_svg([Attempt("t", "review", "w", 1, 5.0, 5.0 + seconds, "completed")]))
    ticks = [text for text in shown if re.fullmatch(r"\d+(\.\d+)?", text)]
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


@pytest.mark.parametrize("decorated", [False, True])
def test_what_agents_are_called_moves_no_cursor_and_begins_no_line(decorated: bool) -> None:
    stream = Terminal()
    with LiveView(stream, decorated) as view:
        view.show(Snapshot([AgentRow(HOSTILE, "worker", HOSTILE, 2, 3, 0, 1.5)], done=3, total=10))
        view.say(HOSTILE)
    shown = stream.getvalue()
    assert r"\x07" in shown
    assert [raw for raw in ("\x07", "\x1b[2J", "\x9b", "\u202e", "\ud800", "\n\\x1b", "\nFORGED") if raw in shown] == []


def test_what_files_and_functions_are_called_moves_no_cursor_and_begins_no_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spot = SPOT.model_copy(update=dict.fromkeys(("path", "function", "suggestion"), HOSTILE))
    for as_json in (False, True):
        demo.tell(report(spot=spot, root=HOSTILE), [Path(HOSTILE)], as_json)
    demo.note(HOSTILE)
    out, err = capsys.readouterr()
    assert r"\x1b[2J" in out
    assert not {char for char in out + err if not char.isprintable()} - {"\n"}
    assert not [line for line in (out + err).splitlines() if line.startswith(("FORGED", "\\x1b"))]


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
