"""Pauses between attempts at something that fails for a while: exponential backoff with equal jitter.

See "Exponential Backoff And Jitter" in the AWS Architecture Blog.
"""

from __future__ import annotations

from typing import Self

__all__ = ["Backoff"]

FIRST_S, MAX_S = 0.05, 2.0
#: No pause is longer than this share of a lease. An agent still sleeping long after Redis is back would be taken for
#: dead.
MAX_LEASE_SHARE = 0.2


class Backoff:
    """The pauses in one series of failures, each up to twice as long as the one before."""

    def __init__(self, first_s: float = FIRST_S, max_s: float = MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self.reset()

    @classmethod
    def under_lease(cls, lease_s: float) -> Self:
        """The pauses of an agent that holds, or wants, a lease of `lease_s` seconds."""
        return cls(max_s=min(MAX_S, lease_s * MAX_LEASE_SHARE))

    def reset(self) -> None:
        """Begins a new series, since an attempt has succeeded."""
        self._ceiling_s = min(self._first_s, self._max_s)

    def next(self, chance: float) -> float:
        """The pause before the next attempt, in seconds. `chance`, from 0 to 1, moves it within the upper half of its
        range, so that processes which failed together do not come back together."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self._max_s, ceiling_s * 2)
        return ceiling_s / 2 * (1 + chance)
