"""What a provider says when it is called too often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

__all__ = ["retry_after_ms"]

#: Milliseconds for a provider that does not say how long.
UNTOLD_MS = 1_000
#: A longer time is taken for a mistake.
LONGEST_MS = 60 * 60 * 1000


def retry_after_ms(error: BaseException, now: datetime | None = None) -> int:
    """How long the provider wants to be left alone, in ms; 0: the error is about something else. It is about that if
    its status is 429, or its class is called RateLimit...; the time is in the headers of its response (`retry-after`,
    in seconds or as a date, or `retry-after-ms`), or its `retry_after` (seconds)."""
    if not _is_rate_limit(error):
        return 0
    told = next(_told_ms(error, now or datetime.now(UTC)), UNTOLD_MS)
    return int(min(max(told, 1), LONGEST_MS))


def _is_rate_limit(error: BaseException) -> bool:
    response = _attribute(error, "response")
    statuses = [_attribute(error, name) for name in ("status_code", "code", "status")] + [
        _attribute(response, name) for name in ("status_code", "status")
    ]
    return HTTPStatus.TOO_MANY_REQUESTS in [each for each in statuses if isinstance(each, int)] or any(
        kind.__name__.startswith("RateLimit") for kind in type(error).__mro__
    )


def _told_ms(error: BaseException, now: datetime) -> Iterator[float]:
    headers = _attribute(_attribute(error, "response"), "headers")
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        told = _header(headers, name)
        if (number := _number(told)) is not None:
            yield number * unit_ms
        elif (date := _date(told)) is not None:
            yield (date - now).total_seconds() * 1000
    if (number := _number(_attribute(error, "retry_after"))) is not None:
        yield number * 1000


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # of a class that is not ours
        return None


def _header(headers: Any, name: str) -> Any:
    """The header of this name, whatever its case."""
    if not isinstance(headers, Mapping):
        return None
    return next((value for key, value in headers.items() if isinstance(key, str) and key.lower() == name), None)


def _number(told: Any) -> float | None:
    try:
        number = float(told)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None


def _date(told: Any) -> datetime | None:
    try:
        date = parsedate_to_datetime(told)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
