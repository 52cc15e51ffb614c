"""What stored bytes say, when anybody who may write to Redis can have put something else there. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

__all__ = ["moment", "number_in", "pairs", "shown"]

#: Longer ones are none that we have written, and are not worth parsing.
NUMBER_BYTES = 32


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields and values that come in turn, as of HGETALL or of an entry in a stream."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def moment(ms: int) -> datetime:
    """That many ms after 1970; the last moment there is for what lies beyond."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def shown(name: bytes) -> str:
    """The beginning of a name that anybody may have chosen, as text for people."""
    return name[:64].decode(errors="replace")


def number_in(value: object, below: int = 2**53) -> int:
    """The number that a stored value says; 0 where there is none, or it is none that we have written."""
    if isinstance(value, bytes) and value.isdigit() and len(value) <= NUMBER_BYTES and int(value) < below:
        return int(value)
    return 0
