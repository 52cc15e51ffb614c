"""Which tasks begin a trace of their own. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from core.step import Batch
from core.tasks import Task
from core.trace_context import TraceContext, begun

__all__ = ["TraceStarts"]

#: The last 64 bits of a trace's id decide whether it is recorded, as with OpenTelemetry's own sampler of a share.
_DIGITS, _WHOLE = 16, 2.0**64


@dataclass(slots=True)
class TraceStarts:
    """Begins traces for submitted tasks that are part of none: a share of so many a second."""

    share: float = 1.0  #: of 0 to 1
    a_second: int | None = None  #: None: any number
    _second: int = 0
    _begun: int = 0  #: in that second

    def trace_of(self, task: Task, batch: Batch) -> TraceContext | None:
        """The trace that a task is part of; None: none."""
        if task.trace is not None:
            return task.trace
        if not self.one_more(batch.now_ms // 1000):
            return None
        trace = begun(task.task_id, batch.now)
        return trace if int(trace.trace_id[-_DIGITS:], 16) < self.share * _WHOLE else None

    def one_more(self, second: int) -> bool:
        """Whether another trace may begin in this second; it counts as begun then."""
        if second != self._second:
            self._second, self._begun = second, 0
        if self.a_second is not None and self._begun >= self.a_second:
            return False
        self._begun += 1
        return True
