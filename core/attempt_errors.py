"""How much of the errors of a task's attempts is kept. Rules, no I/O."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from core.tasks import TaskError

__all__ = ["ERRORS_LIMIT_BYTES", "bounded", "errors_with"]

#: The most bytes that the errors of all attempts of one task take, as JSON.
ERRORS_LIMIT_BYTES = 64 * 1024


def errors_with(earlier: tuple[TaskError, ...], latest: TaskError) -> tuple[TaskError, ...]:
    """The errors of a task's attempts, the last of which failed with `latest`.

    They take at most ERRORS_LIMIT_BYTES: the newest, up to half of that, are kept whole, and of older ones the first
    words."""
    kept: list[TaskError] = []
    left, left_for_whole = ERRORS_LIMIT_BYTES, ERRORS_LIMIT_BYTES // 2
    for error in (latest, *reversed(earlier)):
        left_for_whole -= _size(error)
        if left_for_whole < 0:
            error = in_short(error)
        left -= _size(error)
        if left < 0:
            break
        kept.append(error)
    return tuple(reversed(kept))


def in_short(error: TaskError) -> TaskError:
    """Its first words."""
    return replace(
        error, type=error.type[:100], message=error.message[:100], worker=error.worker[:100], traceback="", output=""
    )


def bounded(error: TaskError) -> TaskError:
    """The error itself, or its first words where it takes more than ERRORS_LIMIT_BYTES."""
    return error if _size(error) <= ERRORS_LIMIT_BYTES else in_short(error)


def _size(error: TaskError) -> int:
    return len(msgspec.json.encode(error))
