"""Draws which worker ran which attempt when: a lane for each worker, and a bar for each attempt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from core.natural_order import natural_key
from core.pictures.svg import FAINT, LOST, MUTED, element, elided, hint, label, page, width_px

__all__ = ["Attempt", "Mark", "timeline_svg"]

Outcome = Literal["completed", "delegated", "failed", "lost", "cancelled"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a task by one worker."""

    task_id: str
    task_type: str
    worker: str
    attempt: int  #: the number of the attempt, from 1 on
    started_at: float  #: seconds, on any clock that all attempts and marks share
    ended_at: float
    outcome: Outcome  #: delegated: children continue; lost: its worker was lost


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at one moment, such as the kill of a worker."""

    at: float  #: seconds, on the clock of the attempts
    label: str


WIDTH, LEFT, RIGHT = 1200, 200, 28
PLOT = WIDTH - LEFT - RIGHT
BAR, GAP, PADDING = 18, 3, 7
#: Colours that people with colour blindness can distinguish too. None is the red of a lost attempt.
COLOURS = ("#8a63b0", "#3b76b5", "#2f8f74", "#c9781f", "#6e7781", "#8c6d3f")
HATCHING = (
    '<pattern id="lost" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="7" height="7" fill="#fbe3e1"/><rect width="3" height="7" fill="{LOST}"/></pattern>'
)
#: Reasonable distances between the ticks of the axis, in seconds, each times a power of ten.
STEPS = (1, 2, 5)
MIN_TICKS = 5


@dataclass(frozen=True, slots=True)
class _Scale:
    start: float
    end: float

    def x(self, at: float) -> float:
        return LEFT + PLOT * (at - self.start) / (self.end - self.start)


def timeline_svg(attempts: Sequence[Attempt], marks: Sequence[Mark] = (), title: str = "Who ran what, and when") -> str:
    """The picture, as self-contained SVG text. Without attempts the plot is empty."""
    scale = _scale(attempts, marks)
    colours = _colours(attempts)
    lanes = _lanes(attempts)
    rows = _mark_rows(marks, scale)
    y = top = 92.0 + 18 * len(rows)
    parts = _heading(title, attempts, scale, colours)
    boxes: list[str] = []
    bars: list[str] = []
    for index, (worker, tracks) in enumerate(lanes.items()):
        height = len(tracks) * (BAR + GAP) - GAP + 2 * PADDING
        shade = "#f6f8fa" if index % 2 == 0 else "#ffffff"
        boxes.append(element("rect", x=12, y=y, width=WIDTH - 24, height=height, fill=shade))
        name = label(24, y + height / 2 + 4, elided(worker, LEFT - 34, 13), font_size=13, font_weight=600)
        bars.append(element("g", hint(worker) + name))
        for row, track in enumerate(tracks):
            for position, attempt in enumerate(track):
                room = track[position + 1].started_at if position + 1 < len(track) else scale.end
                bars.append(_bar(attempt, y + PADDING + row * (BAR + GAP), scale, colours, scale.x(room)))
        y += height
    parts += [*boxes, *_axis(scale, top, y), *bars, *_mark_lines(rows, scale, y)]
    return page(WIDTH, y + 52, title, parts, HATCHING)


def _scale(attempts: Sequence[Attempt], marks: Sequence[Mark]) -> _Scale:
    moments = [at for attempt in attempts for at in (attempt.started_at, attempt.ended_at)]
    moments += [mark.at for mark in marks]
    start, end = (min(moments), max(moments)) if moments else (0.0, 1.0)
    return _Scale(start, end if end > start else start + 1.0)


def _colours(attempts: Sequence[Attempt]) -> dict[str, str]:
    """A colour for each type of task, in the order in which they first ran."""
    types = dict.fromkeys(attempt.task_type for attempt in sorted(attempts, key=lambda attempt: attempt.started_at))
    return {task_type: COLOURS[index % len(COLOURS)] for index, task_type in enumerate(types)}


def _lanes(attempts: Sequence[Attempt]) -> dict[str, list[list[Attempt]]]:
    """The tracks of each worker: attempts that overlap in time lie below each other."""
    lanes: dict[str, list[list[Attempt]]] = {}
    by_worker = sorted(attempts, key=lambda attempt: (natural_key(attempt.worker), attempt.started_at, attempt.task_id))
    for attempt in by_worker:
        tracks = lanes.setdefault(attempt.worker, [])
        free = next((track for track in tracks if track[-1].ended_at <= attempt.started_at), None)
        if free is None:
            tracks.append([attempt])
        else:
            free.append(attempt)
    return lanes


def _heading(title: str, attempts: Sequence[Attempt], scale: _Scale, colours: dict[str, str]) -> list[str]:
    lost = sum(attempt.outcome == "lost" for attempt in attempts)
    workers = len({attempt.worker for attempt in attempts})
    said = f"{len(attempts)} attempts by {workers} workers in {scale.end - scale.start:.1f} s"
    parts = [
        label(24, 32, title, font_size=18, font_weight=600),
        label(24, 52, said + (f", {lost} lost and done again" if lost else ""), font_size=13, fill=MUTED),
    ]
    x = 24.0
    unhappy = {attempt.outcome for attempt in attempts} & {"lost", "failed", "cancelled"}
    swatches = [*colours.items(), *((name, _paint(name, "")[0]) for name in sorted(unhappy))]
    for words, fill in swatches:
        shown = elided(words, 260)
        parts.append(element("rect", x=x, y=64, width=14, height=14, rx=3, fill=fill))
        parts.append(element("g", hint(words) + label(x + 20, 75, shown)))
        x += 20 + width_px(shown) + 18
    return parts


def _paint(outcome: str, colour: str) -> tuple[str, str]:
    """Fill and stroke of a bar."""
    return {
        "lost": ("url(#lost)", LOST),
        "failed": (LOST, LOST),
        "cancelled": ("#b1bac4", "#b1bac4"),
    }.get(outcome, (colour, colour))


def _bar(attempt: Attempt, y: float, scale: _Scale, colours: dict[str, str], room_until_x: float) -> str:
    x = scale.x(attempt.started_at)
    width = max(2.0, scale.x(attempt.ended_at) - x - 1)  # the 1 keeps two bars in a row apart
    fill, stroke = _paint(attempt.outcome, colours[attempt.task_type])
    took = f"{attempt.ended_at - attempt.started_at:.2f} s"
    told = f"{attempt.task_id} ({attempt.task_type}), attempt {attempt.attempt}, {attempt.outcome} after {took}"
    bar = element("rect", x=x, y=y, width=width, height=BAR, rx=3, fill=fill, stroke=stroke)
    words = f"attempt {attempt.attempt}" if attempt.attempt > 1 else ""
    if attempt.outcome in ("lost", "failed"):
        words = attempt.outcome
    return element("g", hint(told) + bar + _bar_label(words, x, y, width, attempt.outcome, room_until_x))


def _bar_label(words: str, x: float, y: float, width: float, outcome: str, room_until_x: float) -> str:
    """The label beside a hatched bar, or inside another one; empty if there is no room."""
    needed = width_px(words, 11)
    if outcome == "lost":
        beside = room_until_x - (x + width) > needed + 8
        at, anchor = (x + width + 5, "start") if beside else (x + width / 2, "middle")
        if not beside and needed > width:
            return ""
        ground = (
            ""
            if beside
            else element("rect", x=at - needed / 2, y=y + 2, width=needed, height=BAR - 4, rx=3, fill="#ffffff")
        )
        return ground + label(at, y + 13, words, font_size=11, font_weight=600, fill=LOST, text_anchor=anchor)
    if not words or needed + 6 > width:
        return ""
    return label(x + 5, y + 13, words, font_size=11, font_weight=600, fill="#ffffff")


def _axis(scale: _Scale, top: float, bottom: float) -> list[str]:
    seconds = scale.end - scale.start
    power = 10 ** math.floor(math.log10(seconds / MIN_TICKS))
    step = max(size * power for size in STEPS if size * power <= seconds / MIN_TICKS)
    digits = max(0, -math.floor(math.log10(step)))
    parts = []
    for number in range(int(seconds / step) + 1):
        x = scale.x(scale.start + number * step)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, stroke=FAINT))
        parts.append(label(x, bottom + 18, f"{number * step:.{digits}f}", fill=MUTED, text_anchor="middle"))
    parts.append(element("line", x1=LEFT, x2=LEFT + PLOT, y1=bottom, y2=bottom, stroke=MUTED))
    parts.append(
        label(LEFT + PLOT / 2, bottom + 38, "seconds since the first attempt", fill=MUTED, text_anchor="middle")
    )
    return parts


def _mark_rows(marks: Iterable[Mark], scale: _Scale) -> list[list[Mark]]:
    """Marks in rows, so that no label covers another."""
    rows: list[list[Mark]] = []
    ends: list[float] = []
    for mark in sorted(marks, key=lambda mark: mark.at):
        left, right = _mark_span(mark, scale)
        row = next((number for number, end in enumerate(ends) if end + 10 < left), len(rows))
        if row == len(rows):
            rows.append([])
            ends.append(0.0)
        rows[row].append(mark)
        ends[row] = right
    return rows


def _mark_span(mark: Mark, scale: _Scale) -> tuple[float, float]:
    """Where the label of a mark begins and ends: to the right of its line, unless it would leave the picture."""
    width = width_px(elided(mark.label, PLOT / 2), 12)
    left = scale.x(mark.at) + 5
    return (left, left + width) if left + width <= WIDTH - 12 else (left - 10 - width, left - 10)


def _mark_lines(rows: Sequence[Sequence[Mark]], scale: _Scale, bottom: float) -> list[str]:
    lines: list[str] = []
    labels: list[str] = []
    for row, marks in enumerate(rows):
        y = 103.0 + 18 * row
        for mark in marks:
            x, (left, right) = scale.x(mark.at), _mark_span(mark, scale)
            dashed: dict[str, float | str] = {"stroke": LOST, "stroke_width": 1.5, "stroke_dasharray": "5 3"}
            lines.append(element("line", x1=x, x2=x, y1=y - 12, y2=bottom, **dashed))
            # The background colour behind it, in case the line of an earlier mark passes.
            ground = element("rect", x=left, y=y - 12, width=right - left, height=16, fill="#ffffff")
            at, anchor = (left, "start") if left > x else (right, "end")
            words = label(at, y, elided(mark.label, PLOT / 2), fill=LOST, font_weight=600, text_anchor=anchor)
            labels.append(element("g", hint(mark.label) + ground + words))
    return lines + labels
