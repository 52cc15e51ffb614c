"""A run as a picture: the throughput, and below it a lane for the server and for each process of an agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.chaos.injector import Kind
from core.chaos.run_record import InjectedFault, Phases, RunRecord, Span
from core.pictures.svg import FAINT, INK, LOST, MUTED, element, hint, label, page, width_px

__all__ = ["timeline_svg"]

LEFT, RIGHT, LANE, BAR = 168, 28, 26, 16
CURVE_TOP, CURVE = 112.0, 110.0
LANES_TOP = CURVE_TOP + CURVE + 24
#: Wide enough to show a fault every 0.3 s for a minute. The picture of a longer run is wider, up to a limit.
MIN_WIDTH, MAX_WIDTH, PX_PER_S = 1200, 4800, 16
UP, HOLDS, STOPPED, ENDING = "#cfe5d6", "#2f8f74", "#e0a82e", "#b1bac4"
LINKS = {Kind.CUT.value: LOST, Kind.DELAY.value: "#8a63b0", Kind.BLACK_HOLE.value: "#1b1f24"}
CONDITIONS = {"up": UP, "stopped": STOPPED, "ending": ENDING}
LEGEND = (
    ("holds the lease", HOLDS),
    ("up", UP),
    ("stopped", STOPPED),
    ("drains", ENDING),
    ("link cut", LINKS["cut"]),
    ("slow", LINKS["delay"]),
    ("black hole", LINKS["black-hole"]),
)
TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)


class _Scale:
    def __init__(self, end_s: float) -> None:
        self.end_s = max(end_s, 1.0)
        self.width = min(MAX_WIDTH, max(MIN_WIDTH, LEFT + RIGHT + PX_PER_S * self.end_s))
        self.plot = self.width - LEFT - RIGHT

    def x(self, at_s: float) -> float:
        return LEFT + self.plot * at_s / self.end_s


def timeline_svg(record: RunRecord, phases: Phases, title: str, subtitle: str) -> str:
    """The picture as self-contained SVG text."""
    scale = _Scale(phases.drained_s)
    bottom = LANES_TOP + LANE * len(record.lanes)
    tops = {lane: LANES_TOP + LANE * row for row, lane in enumerate(record.lanes)}
    parts = [
        label(24, 32, title, font_size=18, font_weight=600),
        label(24, 54, subtitle, font_size=13, fill=MUTED),
        *_legend(),
        *_phases(phases, scale, bottom),
        *_axis(scale, bottom),
        *_curve(record, phases, scale),
        *_lanes(record, scale, tops),
        *_marks(record, scale, tops),
    ]
    return page(scale.width, bottom + 50, title, parts)


def _legend() -> Iterable[str]:
    x = 24.0
    for words, colour in LEGEND:
        yield element("rect", x=x, y=68, width=14, height=14, rx=3, fill=colour)
        yield label(x + 20, 79, words)
        x += 20 + width_px(words) + 12
    yield _cross(x + 7, 75)
    yield label(x + 20, 79, "killed")
    yield _arrow(x + 90, 80)
    yield label(x + 102, 79, "taken over")


def _phases(phases: Phases, scale: _Scale, bottom: float) -> Iterable[str]:
    """The names of the phases, and the time with faults."""
    for start_s, end_s, words, fill in (
        (0.0, phases.ready_s, "start", ""),
        (phases.ready_s, phases.calm_s, "calm", ""),
        (phases.calm_s, phases.faults_s, "faults", "#fdf3f2"),
        (phases.faults_s, phases.drained_s, "drain", ""),
    ):
        left, right = scale.x(start_s), scale.x(end_s)
        if fill:
            yield element(
                "rect", x=left, y=CURVE_TOP - 14, width=right - left, height=bottom - CURVE_TOP + 14, fill=fill
            )
        if right - left > width_px(words, 11):
            yield label((left + right) / 2, CURVE_TOP - 3, words, font_size=11, fill=MUTED, text_anchor="middle")


def _axis(scale: _Scale, bottom: float) -> Iterable[str]:
    step_s = next((step for step in TICK_STEPS_S if step * scale.plot / scale.end_s >= 60), TICK_STEPS_S[-1])
    for number in range(int(scale.end_s / step_s) + 1):
        x = scale.x(number * step_s)
        yield element("line", x1=x, x2=x, y1=CURVE_TOP, y2=bottom, stroke=FAINT)
        yield label(x, bottom + 18, f"{number * step_s}", fill=MUTED, text_anchor="middle")
    yield label(LEFT + scale.plot / 2, bottom + 38, "seconds", fill=MUTED, text_anchor="middle")


def _curve(record: RunRecord, phases: Phases, scale: _Scale) -> Iterable[str]:
    """The curve of tasks ended in each half second, and the rate without faults."""
    bin_s = 0.5 if scale.end_s <= 300 else 2.0
    rates = record.rates(scale.end_s, bin_s)
    calm = record.rate(phases.ready_s, phases.calm_s)
    peak = max([*rates, calm, 1.0]) * 1.05
    floor = CURVE_TOP + CURVE

    def y(rate: float) -> float:
        return floor - CURVE * rate / peak

    points = [(scale.x(min((number + 0.5) * bin_s, scale.end_s)), y(rate)) for number, rate in enumerate(rates)]
    path = " ".join(f"{x:.1f},{at:.1f}" for x, at in points)
    area = f"{points[0][0]:.1f},{floor:.1f} {path} {points[-1][0]:.1f},{floor:.1f}"
    yield element("polygon", points=area, fill="#3b76b5", fill_opacity=0.16)
    yield element("polyline", points=path, fill="none", stroke="#3b76b5", stroke_width=1.5)
    yield element("line", x1=LEFT, x2=LEFT + scale.plot, y1=floor, y2=floor, stroke=MUTED)
    dashes: dict[str, float | str] = {"stroke": MUTED, "stroke_dasharray": "5 4"}
    yield element("line", x1=LEFT, x2=LEFT + scale.plot, y1=y(calm), y2=y(calm), **dashes)
    yield label(LEFT - 10, y(calm) + 4, f"calm {calm:.0f}/s", fill=MUTED, text_anchor="end")
    if y(calm) < floor - 24:
        yield label(LEFT - 10, floor, "0", fill=MUTED, text_anchor="end")
    yield label(24, CURVE_TOP - 3, "tasks ended", font_weight=600)


def _lanes(record: RunRecord, scale: _Scale, tops: dict[str, float]) -> Iterable[str]:
    for row, (lane, top) in enumerate(tops.items()):
        if row % 2 == 0:
            ground: dict[str, float | str] = {"fill": "#59636e", "fill_opacity": 0.05}
            yield element("rect", x=12, y=top, width=scale.width - 24, height=LANE, **ground)
        yield label(24, top + LANE / 2 + 4, lane, font_weight=600)
    for span in record.conditions.spans:
        if span.state in CONDITIONS:
            yield _bar(span, scale, tops, CONDITIONS[span.state], BAR, f"{span.lane}: {span.state}")
    for hold in record.holds:
        if hold.lane in tops:
            span = Span(hold.lane, "holds", hold.start_s, hold.end_s)
            words = f"{hold.lane} acts as {hold.agent_id}, fence {hold.epoch}"
            yield _bar(span, scale, tops, HOLDS, BAR / 2, words)
    for span in record.links.spans:
        yield _bar(span, scale, tops, LINKS[span.state], 4, f"{span.lane}: {span.state}", at=LANE - 5)


def _bar(
    span: Span, scale: _Scale, tops: dict[str, float], fill: str, height: float, words: str, at: float | None = None
) -> str:
    """A bar in the middle of its lane, or at the distance `at` from its top."""
    x = scale.x(span.start_s)
    y = tops[span.lane] + ((LANE - height) / 2 if at is None else at)
    width = max(1.0, scale.x(span.end_s) - x)
    told = f"{words}, {span.start_s:.1f} to {span.end_s:.1f} s"
    return element("rect", hint(told), x=x, y=y, width=width, height=height, fill=fill)


def _marks(record: RunRecord, scale: _Scale, tops: dict[str, float]) -> Iterable[str]:
    for hold in record.takeovers():
        if hold.lane in tops:
            told = f"{hold.lane} took over {hold.agent_id} at {hold.start_s:.1f} s with fence {hold.epoch}"
            yield element("g", hint(told) + _arrow(scale.x(hold.start_s), tops[hold.lane] + LANE - 1))
    for kill in _kills(record.injected):
        if kill.lane in tops:
            told = f"{kill.fault}, at {kill.at_s:.1f} s"
            yield element("g", hint(told) + _cross(scale.x(kill.at_s), tops[kill.lane] + LANE / 2))


def _kills(injected: Sequence[InjectedFault]) -> Iterable[InjectedFault]:
    return (hit for hit in injected if hit.fault.kind in (Kind.KILL, Kind.SERVER_KILL))


def _cross(x: float, y: float) -> str:
    path = f"M{x - 3:.1f},{y - 4:.1f} l6,8 m0,-8 l-6,8"
    return element("path", d=path, stroke=LOST, stroke_width=1.6, fill="none")


def _arrow(x: float, y: float) -> str:
    """A mark below the axis that points up at a moment."""
    return element("path", d=f"M{x:.1f},{y - 7:.1f} l3.5,7 h-7 z", fill=INK)
