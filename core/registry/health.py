"""How well an agent does, as one number between 0.0 and 1.0. Rules, without a clock.

    health = heard * regularity * success * progress

    heard        1 while an agent is silent for no longer than a quarter of its lease; from there it falls in a straight
                 line to 0, which it reaches with the end of the lease
    regularity   the mean of how punctual its last heartbeats were, of which each counts four fifths of the next one
    success      1 minus the share of recent attempts that failed. Two more are counted that have not, so that one
                 failure of one attempt is no verdict; each heartbeat counts a tenth less than the next one
    progress     1 while its loop turns; it falls to 0 when the loop has had work for as long as its lease and has done
                 nothing

Each factor alone can bring it down, since an agent is as healthy as what is worst about it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FALLING_SHARE", "Successes", "health_at", "health_score", "planned_ms", "regularity", "suspect_ms"]

#: What the punctuality of the last heartbeats weighs against that of all before, and successes likewise.
PUNCTUALITY_ALPHA, SUCCESS_ALPHA = 0.2, 0.1
#: The last share of a lease, in which silence lowers the health.
FALLING_SHARE = 0.75
#: Attempts that are counted as successful from the start.
ASSUMED_SUCCESSES = 2.0


def suspect_ms(lease_ms: int) -> int:
    """After how much silence an agent with such a lease is suspect."""
    return lease_ms // 2


def planned_ms(lease_ms: int) -> int:
    """How much time may pass between two heartbeats to the registry that are punctual."""
    return lease_ms // 4


def regularity(before: float, gap_ms: float, lease_ms: int) -> float:
    """The regularity with one more heartbeat, which came `gap_ms` after the one before."""
    punctual = min(1.0, planned_ms(lease_ms) * 1.5 / max(gap_ms, 1.0))
    return before + (punctual - before) * PUNCTUALITY_ALPHA


@dataclass(slots=True)
class Successes:
    """How recent attempts have ended."""

    done: float = 0.0
    failed: float = 0.0

    def add(self, done: int, failed: int) -> None:
        """Adds those that have ended since the last heartbeat."""
        self.done = self.done * (1 - SUCCESS_ALPHA) + done
        self.failed = self.failed * (1 - SUCCESS_ALPHA) + failed

    @property
    def error_rate(self) -> float:
        return self.failed / (self.done + self.failed + ASSUMED_SUCCESSES)


def health_score(regular: float, error_rate: float, stalled_ms: float, lease_ms: int) -> float:
    """The health at a heartbeat. `stalled_ms`: how long there has been work without progress."""
    progress = max(0.0, 1 - stalled_ms / lease_ms)
    return _share(regular) * (1 - _share(error_rate)) * progress


def health_at(score: float, silent_ms: float, lease_ms: int) -> float:
    """The health that an agent with `score` at its last heartbeat has after so much silence."""
    return _share(score) * _share((lease_ms - silent_ms) / (lease_ms * FALLING_SHARE))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
