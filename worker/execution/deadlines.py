"""Sees to it that attempts end in time: one sweep looks after all that run, no timer is made per attempt.

An attempt that is cancelled or out of time is told so, has GRACE_S to end, and is then killed; or left behind, if it is
a coroutine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from time import monotonic

from worker.authoring.context import Progress
from worker.authoring.registry import Handler
from worker.execution.attempt import Finished, Running
from worker.execution.outcomes import raised, stopped

__all__ = ["Deadlines", "set_due"]

#: Between two looks at what runs: how late a timeout, a kill or a progress report can be.
SWEEP_S = 0.05

#: Between being told to stop and being killed.
GRACE_S = 1.0

#: Between being told to stop and being given up, for what cannot even be killed.
GIVE_UP_S = 3.0

#: Between two progress reports of one attempt that are passed on.
PROGRESS_S = 0.1

log = logging.getLogger(__name__)


def set_due(running: Running, handler: Handler) -> None:
    """Its time is up at its timeout, or at the deadline of its task if that is earlier."""
    task = running.task
    left_s = task.timeout_s or handler.timeout_s
    if task.deadline is not None:
        left_s = min(left_s, (task.deadline - running.started_at).total_seconds())
    running.due_s = running.started_monotonic + left_s


class Deadlines:
    """Of the attempts in ``running``, by task id. ``finish`` is called for those that do not end by themselves."""

    def __init__(
        self,
        running: Mapping[str, Running],
        variables: Context,
        finish: Callable[[Running, Finished], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        """``variables``: the context in which all is called."""
        self._running = running
        self._variables = variables
        self._finish = finish
        self._on_progress = on_progress
        self._sweeper: asyncio.TimerHandle | None = None
        self.left_behind: set[asyncio.Task[None]] = set()  #: attempts that do not even end when they are cancelled

    def watch(self) -> None:
        """Sweeps for as long as anything runs. Called again it changes nothing."""
        if self._sweeper is None:
            # Called from within an attempt that ends, so in its context.
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(SWEEP_S, self._sweep, context=self._variables)

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self) -> None:
        now_s = monotonic()
        for running in [*self._running.values()]:
            if running.unreported and not running.forgotten and now_s >= running.reported_s + PROGRESS_S:
                self._pass_on_progress(running, now_s)
            if running.attempt.done():  # cancelled before its first step, by user code that cancels all tasks it finds
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
            log.warning("a handler does not end: %s", running.task.task_id, extra={"action": "attempt_left_behind"})
            self.left_behind.add(running.attempt)
            self._finish(running, stopped(running))
