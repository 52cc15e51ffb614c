"""Stops attempts when their time is up. One periodic sweep serves all of them, since a timer for each would cost more.

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

#: Seconds between two sweeps: a timeout, a kill or a progress report can be this late.
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
        self.left_behind: set[asyncio.Task[None]] = set()  #: attempts that were cancelled and go on

    def watch(self) -> None:
        """Sweeps for as long as any attempt runs. Calling it again changes nothing."""
        if self._sweeper is None:
            # The caller may be an attempt that has just ended, whose context variables must not be inherited.
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(SWEEP_S, self._sweep, context=self._variables)

    def close(self) -> None:
        """Ends the sweeping."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self) -> None:
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
        self._sweeper = None
        if self._running:
            self.watch()

    def _pass_on_progress(self, running: Running, now_s: float) -> None:
        running.unreported, running.reported_s = False, now_s
        progress = running.progress
        assert progress is not None
        self._on_progress(progress)

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
