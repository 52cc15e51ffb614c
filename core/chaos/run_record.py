"""The record of a run, for the report and its picture: which processes were up, which held a lease, which faults were
injected, and how many tasks ended. All times are in seconds since the beginning of the run, by the monotonic clock of
the watching process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.chaos.injector import Fault, Kind

__all__ = ["SERVER_LANE", "Hold", "InjectedFault", "Phases", "Recovery", "RunRecord", "Span", "Track"]

SERVER_LANE = "server"


@dataclass(frozen=True, slots=True)
class Span:
    """A time during which a lane was in one state."""

    lane: str  #: the name of a process, or the server
    state: str  #: up | stopped | ending | down, or the kind of a fault of its link
    start_s: float
    end_s: float


class Track:
    """Collects changes of state as spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._now: dict[str, tuple[str, float]] = {}

    def set(self, lane: str, state: str | None, at_s: float) -> None:
        """Notes that `lane` is in this state from now on; None: in a state that is not shown."""
        before = self._now.pop(lane, None)
        if before is not None:
            self.spans.append(Span(lane, before[0], before[1], at_s))
        if state is not None:
            self._now[lane] = (state, at_s)

    def state(self, lane: str) -> str | None:
        return self._now[lane][0] if lane in self._now else None

    def close(self, at_s: float) -> None:
        """Ends all open spans, since the run is over."""
        for lane in list(self._now):
            self.set(lane, None, at_s)


@dataclass(slots=True)
class Hold:
    """A time during which one process held the lease of an id."""

    agent_id: str
    lane: str  #: the process; empty if it was not one of ours
    epoch: int  #: its fence
    start_s: float
    end_s: float


@dataclass(slots=True)
class InjectedFault:
    """A fault that was injected."""

    fault: Fault
    at_s: float
    lane: str  #: the process that it hit
    pid: int
    acting: bool  #: whether that process held the lease of its id
    healed_s: float | None = None  #: when the process was restarted, continued or connected again


@dataclass(frozen=True, slots=True)
class Recovery:
    """The time until work that a fault had interrupted continued."""

    fault: Fault
    tier: str  #: coordinator | distributor | worker | server
    took_s: float


@dataclass(frozen=True, slots=True)
class Phases:
    """The times at which the phases ended."""

    ready_s: float  #: when the hierarchy answered, and the load began
    calm_s: float  #: when the injection began
    faults_s: float  #: when the injection ended
    drained_s: float  #: when no task was open any more


@dataclass(slots=True)
class RunRecord:
    """Everything that was recorded."""

    lanes: Sequence[str] = ()  #: in the order in which they are shown
    conditions: Track = field(default_factory=Track)
    links: Track = field(default_factory=Track)
    holds: list[Hold] = field(default_factory=list)
    injected: list[InjectedFault] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)  #: when the client heard of the end of each task
    recoveries: list[Recovery] = field(default_factory=list)
    exits: dict[str, list[int]] = field(
        default_factory=dict
    )  #: by lane, the exit codes of processes that ended by themselves

    def faults_by_kind(self) -> dict[str, int]:
        counts = {kind.value: sum(injected.fault.kind is kind for injected in self.injected) for kind in Kind}
        return {kind: count for kind, count in counts.items() if count}

    def takeovers(self) -> list[Hold]:
        """The holds of a lease that followed one by another process, or by an earlier process of the same lane."""
        known: set[str] = set()
        later = []
        for hold in sorted(self.holds, key=lambda hold: hold.start_s):
            if hold.agent_id in known:
                later.append(hold)
            known.add(hold.agent_id)
        return later

    def rate(self, start_s: float, end_s: float) -> float:
        """Tasks a second that ended between two times."""
        return _within(self.done_s, start_s, end_s) / (end_s - start_s) if end_s > start_s else 0.0

    def rates(self, end_s: float, bin_s: float) -> list[float]:
        """Tasks a second in each interval of `bin_s` from the beginning to `end_s`."""
        counts = [0] * max(1, round(end_s / bin_s))
        for at_s in self.done_s:
            counts[min(int(at_s / bin_s), len(counts) - 1)] += 1
        return [count / bin_s for count in counts]


def _within(times: Iterable[float], start_s: float, end_s: float) -> int:
    return sum(start_s <= at_s < end_s for at_s in times)
