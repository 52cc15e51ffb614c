"""The times at which a cron expression comes true in a time zone. No I/O, no clock.

The calendar is that of `cronsim`, which follows Debian's cron; it is asked without a zone. How a local time becomes a
moment is said here, as Debian's cron does it: an expression whose minute or hour begins with `*` means each moment at
which a clock on the wall shows such a time. So what a clock leaves out in spring does not come, and what it shows twice
in autumn comes twice. Any other expression means a time of the day, which comes once each day: what the clock leaves
out comes when it is set forward, and of what it shows twice the first counts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from core.errors import BadSchedule

__all__ = ["check_expression", "next_time", "zone_named"]

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
EXPRESSION_LENGTH = 200
#: What other crons take as well, and what is written here instead.
NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
#: Any moment: from there a good expression comes true within the years that cronsim looks ahead.
BEGINNING = datetime(2000, 1, 1)  # noqa: DTZ001  # local times have no zone here


@lru_cache(maxsize=256)
def zone_named(name: str) -> ZoneInfo:
    """The time zone of that name. Raises BadSchedule."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise BadSchedule(
            f"time zone {name[:80]!r} is not known here: use an IANA name such as 'Europe/Berlin' or 'UTC'. If it is"
            " one, this machine has no time zones: install tzdata"
        ) from None


def check_expression(expression: str) -> None:
    """Raises BadSchedule for an expression that is none, or never comes true."""
    if (plain := NICKNAMES.get(expression.strip().lower())) is not None:
        raise BadSchedule(f"cron {expression!r}: write {plain!r}")
    fields = expression.split() if len(expression) <= EXPRESSION_LENGTH else []
    if len(fields) != 5:
        raise BadSchedule(
            f"cron {expression[:80]!r}: give five fields, minute, hour, day of the month, month and day of the week, as"
            " in '30 9 * * 1-5'. Use every_s for less than a minute"
        )
    try:
        _next_local(expression, BEGINNING)
    except CronSimError as error:
        raise BadSchedule(f"cron {expression!r}: {_what(error)}") from None
    except StopIteration:
        raise BadSchedule(f"cron {expression!r}: there is no such day within 50 years") from None


def _what(error: CronSimError) -> str:
    field = str(error).removeprefix("Bad ")
    return f"the {field} is not one; use numbers, '*', ranges 'a-b', lists 'a,b', steps '*/n'"


def next_time(expression: str, zone_name: str, after: datetime) -> datetime | None:
    """The first moment after `after` at which a good expression comes true, in UTC; None: not within 50 years."""
    zone = zone_named(zone_name)
    minute, hour, *_ = expression.split()
    try:
        if minute.startswith("*") or hour.startswith("*"):
            return _next_shown(expression, zone, after)
        return _next_time_of_day(expression, zone, after)
    except StopIteration:
        return None


def _next_local(expression: str, after: datetime) -> datetime:
    return next(CronSim(expression, after))


def _next_time_of_day(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    local = _shown(zone, after)
    while True:
        local = _next_local(expression, local)
        at = local.replace(tzinfo=zone).astimezone(UTC)
        if _shown(zone, at) != local:  # the clock leaves it out
            at = _change(zone, local.replace(tzinfo=zone, fold=1).astimezone(UTC), at)
        if at > after:  # otherwise the clock shows it for the second time, or another time came with it
            return at


def _next_shown(expression: str, zone: ZoneInfo, after: datetime) -> datetime:
    """As long as the clock is not set, a local time is a moment with one offset; after that it is looked for anew."""
    start = after.astimezone(UTC).replace(microsecond=0) + SECOND
    while True:
        local = _shown(zone, start)
        at = start + (_next_local(expression, local - SECOND) - local)
        change = _first_change(zone, start, at)
        if change is None:
            return at
        start = change


def _shown(zone: ZoneInfo, at: datetime) -> datetime:
    """What a clock on the wall shows at that moment."""
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


def _first_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The first moment up to `end` at which the clock is another than at `start`; None: it is not set meanwhile."""
    offset = _offset(zone, start)
    while start < end:
        later = min(start + DAY, end)
        if _offset(zone, later) != offset:
            return _change(zone, start, later)
        start = later
    return None


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first second at which the clock is no longer the one that it is `before`, as it is not `after`."""
    offset = _offset(zone, before)
    same, other = 0, (after - before) // SECOND
    while other - same > 1:
        middle = (same + other) // 2
        if _offset(zone, before + middle * SECOND) == offset:
            same = middle
        else:
            other = middle
    return before + other * SECOND
