"""Stops attempts when their time is up. One sweep serves all of them, since a timer for each would cost more. It comes
soon after each change, and otherwise when the next of them is due.

An attempt that is cancelled or out of time is told to stop. If it has not ended GRACE_S later, its child process is
killed; a coroutine, which cannot be killed, is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextvars import Context

from core.redis_backend.clock import monotonic_s
from worker.authoring.context import Progress
from worker.authoring.registry import Handler
from worker.execution.attempt import Finished, Running
from worker.execution.outcomes import raised, stopped

__all__ = ["Deadlines", "deadline_s", "set_due"]

#: Seconds from a change to the sweep that sees it: a timeout, a kill or a progress report can be this late.
SWEEP_S = 0.05

#: Seconds from the request to stop until the process is killed.
GRACE_S = 1.0

#: Seconds from the request to stop until an attempt is given up whose process does not even die when it is killed.
GIVE_UP_S = 3.0

#: Seconds between two progress reports of one attempt; of those that come in between, only the latest is passed on.
PROGRESS_S = 0.1

log = logging.getLogger(__name__)


def set_due(running: Running, handler: Handler) -> None:
    """Sets when an attempt must be stopped: at its timeout, or at the deadline of its task if that is earlier."""
    timeout_s = running.task.timeout_s or handler.timeout_s
    running.due_s = min(running.started_monotonic + timeout_s, deadline_s(running))
    running.on_change()


def deadline_s(running: Running) -> float:
    """The monotonic time of the deadline of its task; infinite: there is none."""
    deadline = running.task.deadline
    if deadline is None:
        return math.inf
    return running.started_monotonic + (deadline - running.started_at).total_seconds()


class Deadlines:
    """Enforces the deadlines of the attempts in `running`, which are stored by task id. Calls `finish` for those that
    do not end by themselves, and `on_progress` with their progress reports."""

    def __init__(
        self,
        running: Mapping[str, Running],
        variables: Context,
        finish: Callable[[Running, Finished], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        """`variables`: the context variables with which the sweep runs."""
        self._running = running
        self._variables = variables
        self._finish = finish
        self._on_progress = on_progress
        self._sweeper: asyncio.TimerHandle | None = None
        self._soon = False  #: whether the next sweep comes within SWEEP_S
        self.left_behind: set[asyncio.Task[None]] = set()  #: attempts that were cancelled and go on

    def watch(self) -> None:
        """Sees to it that what has changed is looked at within SWEEP_S. Calling it again before that changes
        nothing."""
        if not self._soon:
            self._sweep_in(SWEEP_S)

    def close(self) -> None:
        """Ends the sweeping."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper, self._soon = None, False

    def _sweep_in(self, seconds: float) -> None:
        self.close()
        # The caller may be an attempt that has just ended, whose context variables must not be inherited.
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep, context=self._variables)
        self._soon = seconds <= SWEEP_S

    def _sweep(self) -> None:
        self._soon = True  # what changes meanwhile is seen by the choice of the next sweep
        now_s = monotonic_s()
        for running in [*self._running.values()]:
            if running.unreported and not running.forgotten and now_s >= running.reported_s + PROGRESS_S:
                self._pass_on_progress(running, now_s)
            if running.attempt.done():  # user code that cancels all tasks has cancelled it before its first step
                self._finish(running, raised(running, asyncio.CancelledError()))
            elif running.stopped_s is not None:
                self._insist(running, now_s - running.stopped_s)
            elif now_s >= running.due_s:
                running.stop()
        self.close()
        if self._running:
            self._sweep_in(max(SWEEP_S, min(map(_looked_at_s, self._running.values())) - now_s))

    def _pass_on_progress(self, running: Running, now_s: float) -> None:
        """Never raises: the sweep would end, and with it all timeouts."""
        running.unreported, running.reported_s = False, now_s
        try:
            progress = running.progress
            assert progress is not None
            self._on_progress(progress)
        except Exception:
            log.exception("passing on progress failed", extra={"action": "progress_failed"})

    def _insist(self, running: Running, since_s: float) -> None:
        if running.child is not None and not running.killed and since_s >= GRACE_S:
            running.killed = True
            running.child.kill()
        elif since_s >= (GRACE_S if running.child is None else GIVE_UP_S):
            log.warning(
                "the handler of task %s does not end", running.task.task_id, extra={"action": "attempt_left_behind"}
            )
            self.left_behind.add(running.attempt)
            self._finish(running, stopped(running))


def _looked_at_s(running: Running) -> float:
    """The monotonic time until which no sweep needs to look at an attempt; in the past: it needs each."""
    under_way = running.stopped_s is not None or running.unreported or running.due_s == math.inf
    return -math.inf if under_way else running.due_s
