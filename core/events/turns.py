"""Whose turn it is. The handler of a subscription is called for one event at a time, in order, and of all handlers at
most so many are at work at once.

A call waits in the line of its subscription until it has the turn of that line and one of the permits. Then it is at
work, until it ends. A handler that waits for something of a bus, such as the handlers of what it has published, is away
meanwhile: it gives both back, and has them again before it goes on. So nobody who has a permit waits for one, and
handlers that publish and wait, to whatever depth, never wait for each other in a circle.

Nothing here is safe by itself where several threads use it: the bus holds its lock around every call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import Context, ContextVar

from core.agent_event import AgentEvent
from core.events.subscription import Subscription

__all__ = ["Call", "Line", "Outcomes", "Publication", "Turns", "Wait", "current_call"]

_current: ContextVar[Call | None] = ContextVar("handler_call", default=None)


class Wait:
    """Somebody waits for something of a bus: a handler, whose call is `caller`, or who else."""

    __slots__ = ("caller", "over", "wakeup")

    def __init__(self) -> None:
        self.caller = current_call()
        self.over = False
        self.wakeup: asyncio.Future[None] | None = None

    def end(self) -> None:
        """Whoever waits goes on."""
        self.over = True
        wakeup = self.wakeup
        if wakeup is not None and not wakeup.done() and not wakeup.get_loop().is_closed():
            wakeup.set_result(None)


class Publication(Wait):
    """Somebody waits until the handlers of an event have run."""

    __slots__ = ("calls", "errors", "left", "one_was_cancelled")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.left = 0  # calls that have not ended
        self.errors: list[Exception] = []
        self.one_was_cancelled = False


class Call:
    """A call of a handler with an event, from when it waits in its line until it has ended."""

    task: asyncio.Task[None] | None = None  #: None: it has not begun, or runs in the task of its publisher
    deadline: asyncio.TimerHandle | None = None
    waits = 0  #: that are not over: while there is one, it is away
    returns: tuple[Wait, ...] = ()  #: over, as soon as it is at work again
    ended = False
    skipped = False  #: it was dropped at the last moment

    def __init__(self, line: Line, event: AgentEvent, context: Context | None, publication: Publication | None) -> None:
        self.line, self.event, self.context, self.publication = line, event, context, publication

    async def run(self) -> None:
        """Calls the handler, unless its subscription has ended since it got its turn. Raises what it raises, and
        TypeError if it is no coroutine function."""
        if self.line.ended:
            self.skipped = True
            return
        called = self.line.subscription.handler(self.event)
        if called is None:
            raise TypeError(f"the handler of {self.line.subscription.id} is no coroutine function: use async def")
        await called

    async def run_here(self) -> BaseException | None:
        """Calls the handler in the task of the publisher. Returns what was raised."""
        before, raised = _current.set(self), None
        try:
            await self.run()
        except GeneratorExit:  # the loop is gone, and with it the context
            raise
        except BaseException as error:
            raised = error
        _current.reset(before)
        return raised

    def start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Calls the handler in a task of its own."""
        assert self.context is not None
        context = self.context.copy()
        context.run(_current.set, self)
        self.task = loop.create_task(self.run(), context=context)
        return self.task


class Outcomes:
    """How many events came to which end."""

    def __init__(self) -> None:
        self.handled = self.failed = self.cancelled = self.dropped = 0


class Line:
    """The calls of one subscription, in order."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.filtered = subscription.is_filtered
        self.room = subscription.max_queue
        self.queue: deque[Call] = deque()
        self.back: deque[Call] = deque()  # have been away
        self.at_work: Call | None = None  # the one that has the turn
        self.due = False  # among those that wait for a permit
        self.ended = False
        self.overflowed = False
        self.outcomes = Outcomes()


class Turns:
    """Decides which call goes on. Who asks for `next` makes it do so."""

    def __init__(self, permits: int) -> None:
        self._permits = self._free = permits
        self.queued = 0  # calls that have not begun
        self.due: deque[Line] = deque()  # lines in which a call could go on, if there were a permit

    def queue(self, call: Call) -> None:
        line = call.line
        self.queued += 1
        line.queue.append(call)
        if not line.due and line.at_work is None:
            line.due = True
            self.due.append(line)

    def drop(self, call: Call) -> None:
        """Takes a call that has not begun out of its line."""
        self.queued -= 1
        call.line.queue.remove(call)

    def next(self) -> Call | None:
        """The next call that goes on: it begins, or it has `returns`, which are over. None: nobody can."""
        while self._free and self.due:
            line = self.due.popleft()
            line.due = False
            if line.back:
                call = line.back.popleft()
            elif line.queue:
                self.queued -= 1
                call = line.queue.popleft()
            else:
                continue
            if call.waits or call.ended:  # it waits again, or did not wait to be back
                self._note(line)
            else:
                self._take(call)
            return call
        return None

    def take_at_once(self, call: Call) -> bool:
        """Whether the call can begin now, before any that waits: then it has its turn and a permit."""
        if self._free > 0 and call.line.at_work is None and not call.line.due:
            self._take(call)
            return True
        return False

    def give_back(self, call: Call) -> None:
        """The call has ended or is away."""
        line = call.line
        if line.at_work is call:
            line.at_work = None
            self._free += 1
            if line.queue or line.back:
                self._note(line)

    def begin_wait(self, wait: Wait) -> None:
        if wait.caller is not None:
            wait.caller.waits += 1
            self.give_back(wait.caller)

    def end_wait(self, wait: Wait) -> None:
        """What somebody waited for is there. A handler goes on when it has its turn again."""
        caller = wait.caller
        if caller is None:
            wait.end()
            return
        caller.waits -= 1
        if caller.waits or caller.ended:  # it has started tasks that wait, too, or that have outlived it
            wait.end()
            return
        caller.returns += (wait,)
        if len(caller.returns) == 1:
            caller.line.back.append(caller)
            self._note(caller.line)

    def begin_anew(self, lines: Iterable[Line]) -> None:
        """Forgets all calls that have begun, and those that somebody waits for: their event loop is gone."""
        self._free = self._permits
        self.queued = 0
        self.due.clear()
        for line in lines:
            line.queue = deque(call for call in line.queue if call.publication is None)
            line.back.clear()
            line.at_work, line.due = None, False
            self.queued += len(line.queue)
            self._note(line)

    def _take(self, call: Call) -> None:
        self._free -= 1
        call.line.at_work = call

    def _note(self, line: Line) -> None:
        if not line.due and line.at_work is None and (line.queue or line.back):
            line.due = True
            self.due.append(line)


def current_call() -> Call | None:
    """The call of a handler that this code runs in, or in a task that it has started."""
    call = _current.get()
    return None if call is None or call.ended else call
