"""How events reach the handlers of a bus: on one event loop, when `turns` says so, each call with its outcome."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from core.agent_event import AgentEvent
from core.events.subscription import HandlerError, Overflow
from core.events.turns import Call, Line, Outcomes, Publication, Turns, Wait, current_call

__all__ = ["Delivery", "raise_all"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Errors of handlers that are kept with their events; older ones go.
KEPT_ERRORS = 100


class Delivery:
    """Calls handlers, and wakes those who wait for them.

    `lock` is held around all that several threads use: the lines, the turns, what is counted. What is said to be under
    the lock is called by somebody who holds it. Handlers are never called under it.
    """

    def __init__(self, permits: int) -> None:
        self.lock = threading.Lock()
        self.lines: dict[str, Line] = {}  # by the id of the subscription
        self.turns = Turns(permits)
        self.calls: set[Call] = set()  # that have begun and not ended
        self.over: deque[Wait] = deque()  # that end in the next `advance`
        self.errors: deque[HandlerError] = deque(maxlen=KEPT_ERRORS)
        self.outcomes = Outcomes()  # of all subscriptions, those that have ended too
        self.when_ended: Callable[[], None] | None = None  # is called under the lock when a call has ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._overflowed: deque[Line] = deque()  # for the first time, which has yet to be said
        self._will_advance = False

    # ---- the loop ----

    def elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """The loop that handlers run on, if it is another than the one that runs here. If none does, or it has
        stopped, or belongs to a process that this one was forked from, it is the one that runs here from now on."""
        here = asyncio.get_running_loop()
        if self._loop is here:
            return None
        with self.lock:
            if self._loop is not None and self._loop.is_running() and self._process == os.getpid():
                return self._loop
            self._loop, self._process, self._will_advance = here, os.getpid(), False
            self.calls.clear()
            self.over.clear()
            self.turns.begin_anew(self.lines.values())
        self.advance_soon()
        return None

    def advance_soon(self) -> None:
        """Lets the loop do what `advance` does. Where there is none yet, it is done when there is one."""
        loop, here = self._loop, asyncio._get_running_loop()
        if here is not None and here is not loop and self.elsewhere() is None:
            return  # it has just moved here, which does it
        if loop is None or self._will_advance:
            return
        self._will_advance = True
        try:
            (loop.call_soon if here is loop else loop.call_soon_threadsafe)(self.advance)
        except RuntimeError:  # it was closed
            self._will_advance = False

    def advance(self) -> None:
        """Begins what can begin, and lets those go on who have what they waited for. On the loop."""
        self._will_advance = False
        while self._overflowed:
            self._report_overflow(self._overflowed.popleft())
        while (call := self._next()) is not None:
            if call.deadline is not None:
                call.deadline.cancel()
            assert self._loop is not None
            call.start(self._loop).add_done_callback(partial(self._task_ended, call))

    def _next(self) -> Call | None:
        """The next call that begins."""
        with self.lock:
            while self.over:
                self.turns.end_wait(self.over.popleft())
            while (call := self.turns.next()) is not None:
                if not call.returns:
                    self.calls.add(call)
                    return call
                returns, call.returns = call.returns, ()
                for wait in returns:
                    wait.end()
            return None

    # ---- calls: under the lock ----

    def alone(self, lines: list[Line], event: AgentEvent) -> Call | None:
        """The call of the only handler, if it can begin at once; `run_here` is to follow. Not inside of a handler: each
        would run on top of the one before, and the interpreter's stack has an end."""
        if len(lines) != 1 or current_call() is not None:
            return None
        call = Call(lines[0], event, None, None)
        if not self.turns.take_at_once(call):
            return None
        self.calls.add(call)
        return call

    def queue_awaited(self, lines: list[Line], event: AgentEvent) -> Publication:
        """Queues a call in each line. `until_over` is to follow."""
        publication, context = Publication(), copy_context()
        publication.left = len(lines)
        publication.calls = [Call(line, event, context, publication) for line in lines]
        for call in publication.calls:
            wanted = call.line.subscription
            if wanted.overflow is Overflow.BLOCK and len(call.line.queue) >= call.line.room and self._loop is not None:
                call.deadline = self._loop.call_later(wanted.block_s, self._give_up, call)
            self.turns.queue(call)
        self.turns.begin_wait(publication)
        return publication

    def queue(self, lines: list[Line], event: AgentEvent) -> None:
        """Queues a call in each line that has room, or makes some."""
        context, turns = copy_context(), self.turns
        for line in lines:
            if len(line.queue) < line.room or self._make_room(line):
                turns.queue(Call(line, event, context, None))
            else:
                self._note_overflow(line)
                self._count_dropped(line)

    def _make_room(self, line: Line) -> bool:
        """Drops the oldest event that nobody awaits, where that is the policy. Returns whether there is room now."""
        if line.subscription.overflow is not Overflow.DROP_OLDEST:
            return False
        oldest = next((call for call in line.queue if call.publication is None), None)
        if oldest is not None:
            self._note_overflow(line)
            self._drop(oldest)
        return oldest is not None

    def cancel(self, calls: Iterable[Call]) -> None:
        """Drops those that have not begun, and cancels the tasks of the others."""
        for call in calls:
            if call.task is not None:
                call.task.cancel()
            elif call in call.line.queue:
                self._drop(call)

    def _drop(self, call: Call) -> None:
        self.turns.drop(call)
        self._count_dropped(call.line)
        self._ended(call)

    def _ended(self, call: Call) -> None:
        """It has run, or was dropped."""
        call.ended = True
        if call.publication is not None:
            call.publication.left -= 1
            if not call.publication.left:
                self.over.append(call.publication)
        if self.when_ended is not None:
            self.when_ended()

    def _count_dropped(self, line: Line) -> None:
        line.outcomes.dropped += 1
        self.outcomes.dropped += 1

    def _note_overflow(self, line: Line) -> None:
        if not line.overflowed:
            line.overflowed = True
            self._overflowed.append(line)

    # ---- calls: without the lock, on the loop ----

    async def run_here(self, call: Call) -> Exception | None:
        """Runs the handler in the task of its publisher. Returns what it raised, but raises what is no Exception."""
        error = await call.run_here()
        self._settle(call, error)
        if error is None or isinstance(error, Exception):
            return error
        raise error

    async def until_over(self, wait: Wait, give_up: Callable[[], None]) -> None:
        """Returns when the wait is over. If the task is cancelled, `give_up` is called under the lock, to make it end
        sooner; CancelledError is raised when it has, and when a handler that waits is at work again."""
        self.advance()
        cancelled: asyncio.CancelledError | None = None
        while not wait.over:
            wait.wakeup = asyncio.get_running_loop().create_future()
            try:
                await wait.wakeup
            except asyncio.CancelledError as error:
                cancelled = error
                with self.lock:
                    give_up()
                self.advance()
        if cancelled is not None:
            raise cancelled

    def _give_up(self, call: Call) -> None:
        """Its time to begin is over."""
        with self.lock:
            if call in call.line.queue:
                self._note_overflow(call.line)
                self._drop(call)
        self.advance()

    def _task_ended(self, call: Call, task: asyncio.Task[None]) -> None:
        self._settle(call, asyncio.CancelledError() if task.cancelled() else task.exception())

    def _settle(self, call: Call, error: BaseException | None) -> None:
        """The handler has run, and raised this."""
        if isinstance(error, Exception):
            self._report(call, error)
        with self.lock:
            self.calls.discard(call)
            self.turns.give_back(call)
            if call.skipped:
                self._count_dropped(call.line)
            elif error is None:
                call.line.outcomes.handled += 1
                self.outcomes.handled += 1
            else:
                self._note(call, error)
            self._ended(call)
        if self.over or self.turns.due:
            self.advance()

    def _note(self, call: Call, error: BaseException) -> None:
        """Counts the error, and keeps it for those who may want it."""
        if isinstance(error, Exception):
            call.line.outcomes.failed += 1
            self.outcomes.failed += 1
            self.errors.append(HandlerError(call.event, call.line.subscription.id, error))
            if call.publication is not None:
                call.publication.errors.append(error)
        else:
            call.line.outcomes.cancelled += 1
            self.outcomes.cancelled += 1
            if call.publication is not None:
                call.publication.one_was_cancelled = True

    def _report_overflow(self, line: Line) -> None:
        """Not under the lock: what writes the log may publish events."""
        log.warning(
            "events for %s are dropped: they come faster than they are handled", line.subscription.id,
            extra={"action": "events_dropped", "subscription": line.subscription.id},
        )  # fmt: skip

    def _report(self, call: Call, error: Exception) -> None:
        subscription = call.line.subscription.id
        log.error(
            "the handler of %s has failed: %s", call.event.type.value, type(error).__name__, exc_info=error,
            extra={"action": "event_handler_failed", "subscription": subscription, "event_id": call.event.id},
        )  # fmt: skip


async def at(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on another loop, and waits for it on this one."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


def raise_all(errors: list[Exception]) -> None:
    """Raises an ExceptionGroup of them, if there are any."""
    if errors:
        raise ExceptionGroup("handlers have failed", errors)
