"""No firing is lost or doubled when clocks are set: next to an oracle that looks at a clock every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from core.firing_times import next_time

FEWER = settings(max_examples=40, deadline=None)
MINUTE = timedelta(minutes=1)
#: By an hour, two or half of one; at midnight; in the south; twice a year more; never; and away from whole hours.
ZONES = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll", "Africa/Cairo", "America/Havana",
    "Asia/Beirut", "Pacific/Chatham", "America/Santiago", "Africa/Casablanca", "UTC", "Asia/Kolkata",
)  # fmt: skip


class Span(NamedTuple):
    """Two days in a zone, with one on which its clocks are set."""

    zone: str
    change: datetime
    start: datetime
    end: datetime


@cache
def changes(zone: str) -> list[datetime]:
    """The days within three years on which a clock there is set; the first day if it never is."""
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(3 * 365)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offsets, offsets[1:], strict=False) if before != after] or days[:1]


@cache
def clock_of(zone: str, day: datetime) -> list[tuple[datetime, datetime]]:
    """Each minute of the days around that one, and what a clock on the wall shows then."""
    minutes = [day + number * MINUTE for number in range(-3 * 1440, 3 * 1440)]
    return [(at, at.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for at in minutes]


def clock(span: Span) -> list[tuple[datetime, datetime]]:
    return [each for each in clock_of(span.zone, span.change) if span.start <= each[0] < span.end]


def firings(expression: str, span: Span) -> list[datetime]:
    found: list[datetime] = []
    after = span.start - MINUTE
    while (at := next_time(expression, span.zone, after)) is not None and at < span.end:
        found.append(at)
        after = at
    return found


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """From any minute on."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(changes(zone)))
    start = change - timedelta(minutes=draw(st.integers(0, 720)))
    return Span(zone, change, start, start + timedelta(days=2))


numbers = st.lists(st.integers(0, 59), min_size=1, max_size=4, unique=True).map(sorted)
hours = st.lists(st.integers(0, 23), min_size=1, max_size=4, unique=True).map(sorted)


@FEWER
@given(spans(), hours, st.sampled_from((1, 7, 10, 30)))
def test_an_expression_with_a_star_comes_true_whenever_a_clock_shows_it(
    span: Span, wanted: list[int], step: int
) -> None:
    expression = f"*/{step} {','.join(map(str, wanted))} * * *"
    expected = [at for at, shown in clock(span) if shown.hour in wanted and shown.minute % step == 0]
    assert firings(expression, span) == expected


@FEWER
@given(spans(), numbers)
def test_every_hour_is_every_hour_that_a_clock_shows(span: Span, wanted: list[int]) -> None:
    expression = f"{','.join(map(str, wanted))} * * * *"
    assert firings(expression, span) == [at for at, shown in clock(span) if shown.minute in wanted]


@FEWER
@given(spans(), hours, numbers)
def test_a_time_of_the_day_comes_once_a_day_when_a_clock_first_shows_it_or_a_later_one(
    span: Span, wanted: list[int], minutes: list[int]
) -> None:
    expression = f"{','.join(map(str, minutes))} {','.join(map(str, wanted))} * * *"
    _, _, start, end = span
    shown = clock(span._replace(start=start - timedelta(days=1)))
    days = sorted({local.replace(hour=0, minute=0) for _, local in shown})[1:]
    times = [day + timedelta(hours=hour, minutes=minute) for day in days for hour in wanted for minute in minutes]
    first = {next((at for at, local in shown if local >= time), end) for time in times}
    assert firings(expression, span) == sorted(at for at in first if start <= at < end)


@FEWER
@given(st.sampled_from(ZONES), st.integers(0, 3 * 365 * 86_400), st.data())
def test_the_next_time_does_not_depend_on_where_one_begins_to_look(zone: str, second: int, data: st.DataObject) -> None:
    expression = data.draw(
        st.sampled_from(("0 0 1 * *", "*/20 2 * * 0", "30 1,2,3 * * *", "0 12 29 2 *", "59 23 L * *"))
    )
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    at = next_time(expression, zone, after)
    assert at is not None
    assert at > after
    between = after + (at - after) * data.draw(st.floats(0, 0.999))
    assert next_time(expression, zone, between) == at
    later = next_time(expression, zone, at)
    assert later is not None
    assert later > at


def test_what_cronsim_itself_loses_where_clocks_are_set_by_half_an_hour_is_there() -> None:
    zone, start = "Australia/Lord_Howe", datetime(2026, 10, 3, 15, 10, tzinfo=UTC)
    assert next(CronSim("*/10 3 * * *", start.astimezone(ZoneInfo(zone)))).minute == 30
    assert next_time("*/10 3 * * *", zone, start) == datetime(2026, 10, 3, 16, 0, tzinfo=UTC)
