"""How a length of time is told to people."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `5 min`, `3.2 h`, `12 d`: two digits are enough to judge by."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} d"
