"""Reads stored bytes that anybody with write access to Redis may have replaced. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

__all__ = ["moment", "number_in", "pairs", "shown"]

#: We never write longer numbers, so they are not parsed.
NUMBER_BYTES = 32


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields by name, out of a flat list of names and values such as HGETALL, or a stream entry, gives."""
    parts = iter(flat)
    return dict(zip(parts, parts, strict=False))


def moment(ms: int) -> datetime:
    """The moment `ms` after 1970 (UTC), or the last representable one if it lies beyond."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def shown(name: bytes) -> str:
    """The beginning of a name that anybody may have chosen, as text to show."""
    return name[:64].decode(errors="replace")


def number_in(value: object, below: int = 2**53) -> int:
    """The number in a stored value; 0 if there is none, or if we cannot have written it."""
    if isinstance(value, bytes) and value.isdigit() and len(value) <= NUMBER_BYTES and int(value) < below:
        return int(value)
    return 0
