"""Which trace a task belongs to, as W3C Trace Context says it (Level 2, section 3: traceparent and tracestate).

The ids of our spans are hashes of what they are about. So every agent knows the id of a span that another one will tell
of, nothing but the trace itself has to travel, and whoever takes over from a dead agent gives the same ids.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Annotated, Self

from msgspec import Meta, Struct

__all__ = ["TraceContext", "attempt_span_id", "begun", "dispatch_span_id", "span_id_of", "task_span_id"]

#: A later version may say more behind the flags, which is left out here.
_TRACEPARENT = r"^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$"
_PATTERN = re.compile(_TRACEPARENT)
_TRACESTATE_CHARACTERS = 512
_SAMPLED = "13579bdf"  # as the last digit of the flags


class TraceContext(Struct, frozen=True, omit_defaults=True, gc=False):
    """A trace, and the span in it below which a task belongs."""

    traceparent: Annotated[str, Meta(pattern=_TRACEPARENT)]
    tracestate: Annotated[str, Meta(max_length=_TRACESTATE_CHARACTERS)] = ""  #: of other systems: passed on unread

    @classmethod
    def parsed(cls, traceparent: str | None, tracestate: str | None = None) -> Self | None:
        """What two headers say; None: nothing that is valid, which is to be ignored (section 3.2.4)."""
        if traceparent is None or not _PATTERN.fullmatch(traceparent):
            return None
        state = tracestate or ""
        return cls(traceparent, state if len(state) <= _TRACESTATE_CHARACTERS else "")

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hex digits: of the span that things of this context belong below."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether spans of it are recorded. Where it began, that was decided for all of it."""
        return self.traceparent[54] in _SAMPLED

    def below(self, span_id: str) -> TraceContext:
        """The context of what belongs below another span of the same trace."""
        return TraceContext(f"00-{self.trace_id}-{span_id}-{self.traceparent[53:55]}", self.tracestate)


def begun(task_id: str, now: datetime) -> TraceContext:
    """A trace that begins with a task. The task's own span is the first."""
    trace_id = hashlib.sha256(f"trace {task_id} {now.isoformat()}".encode()).hexdigest()[:32]
    return TraceContext(f"00-{trace_id}-{task_span_id(trace_id, task_id)}-01")


def span_id_of(trace_id: str, what: str) -> str:
    """The id of the span of `what`, 16 hex digits. It is 0 for no trace, as far as 64 bits go."""
    return hashlib.sha256(f"span {trace_id} {what}".encode()).hexdigest()[:16]


def task_span_id(trace_id: str, task_id: str) -> str:
    """Of a task, from its submission to its end."""
    return span_id_of(trace_id, task_id)


def dispatch_span_id(trace_id: str, task_id: str, attempt: int) -> str:
    """Of the wait at a distributor before an attempt."""
    return span_id_of(trace_id, f"{task_id}#{attempt} dispatch")


def attempt_span_id(trace_id: str, task_id: str, attempt: int) -> str:
    return span_id_of(trace_id, f"{task_id}#{attempt}")
