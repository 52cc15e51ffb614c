"""What an agent answers to a probe."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Condition"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether an agent does its work, and why not."""

    status: str  #: starting | standby | ready | draining | unready | wedged | ended
    reasons: tuple[str, ...] = ()  #: why it is not ready

    @property
    def ready(self) -> bool:
        """Whether it does its work, or waits for its turn as a standby."""
        return self.status in ("ready", "standby")

    @property
    def alive(self) -> bool:
        """Whether it is alive. False: only another process can help."""
        return self.status not in ("wedged", "ended")
