"""What an agent measures of itself while it works, in plain numbers. `exposition` makes text of them for who asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict

from core.durations import Duration
from core.step import Batch, Step

__all__ = ["BOUNDS_S", "Histogram", "Measures"]

#: Upper bounds of the buckets in seconds, for all histograms; one more bucket has none.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
#: How many kinds of task have a histogram of their own; the others share one.
MAX_TASK_TYPES = 200
OTHER_TYPES = "(other)"


class Histogram:
    """How many durations fell into which bucket, and their sum in seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.total_s += seconds * times


class Measures:
    """Of one agent, for as long as its process lives. All of it is bounded, whatever users call their tasks."""

    def __init__(self) -> None:
        self.message_latency: defaultdict[str, Histogram] = defaultdict(Histogram)  #: by action, signed until read
        self.step = Histogram()  #: graph, commit and effects of one batch
        self.commit = Histogram()
        self.lease_acquisition = Histogram()
        self.lease_renewal = Histogram()  #: those that no other command could carry
        self.lease_renewal_failures = 0
        self.heartbeats: Counter[str] = Counter()  #: sent and received
        self.decisions: Counter[str] = Counter()  #: lines that steps had logged, by their action
        self.durations: defaultdict[Duration, Histogram] = defaultdict(Histogram)
        self.attempts: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)  #: by task type and status
        self.failures: Counter[str] = Counter()  #: of attempts, by the type of their error

    def heard(self, batch: Batch) -> None:
        """Notes what came with a batch."""
        for received in batch.messages:
            self.message_latency[received.message.action].observe(max(0, batch.age_ms(received)) / 1000)
        self.heartbeats["received"] += len(batch.beats)

    def decided(self, step: Step) -> None:
        """Notes what a step has decided."""
        for action, _ in step.notes:
            self.decisions[action] += 1
        for (duration, ms), times in Counter(step.measured).items():  # what is handed out together has waited alike
            self.durations[duration].observe(ms / 1000, times)

    def attempted(self, task_type: str, status: str, run_ms: float, error: str | None) -> None:
        """Notes the end of an attempt; `error`: the type of its error, None: it has none."""
        known = (task_type, status) in self.attempts or len(self.attempts) < MAX_TASK_TYPES
        self.attempts[task_type if known else OTHER_TYPES, status].observe(run_ms / 1000)
        if error is not None:
            self.failures[error if error in self.failures or len(self.failures) < MAX_TASK_TYPES else OTHER_TYPES] += 1
