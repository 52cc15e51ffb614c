"""The messages of one agent: one is handled at a time, the others wait in order."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, Task
from collections import deque

from core.engine.agent_id import AgentId
from core.engine.envelopes import Envelope
from core.engine.work import Work

__all__ = ["Call", "Mailbox", "Room"]


class Call(Work):
    """One message for one agent: queued, then handled."""

    __slots__ = ("began", "caller", "envelope", "mailbox", "task")

    def __init__(self, envelope: Envelope, mailbox: Mailbox, caller: Work | None) -> None:
        super().__init__(mailbox.agent_id, 0 if caller is None else caller.depth + 1)
        self.envelope = envelope
        self.mailbox = mailbox
        self.caller = caller  #: the work that waits for the response
        self.began = False
        self.task: Task[None] | None = None

    def blocked_by(self) -> Work | None:
        return self if self.began else self.mailbox.current


class Room:
    """Somebody waits for room in a mailbox."""

    __slots__ = ("future", "let_in", "mailbox")

    def __init__(self, mailbox: Mailbox, loop: AbstractEventLoop) -> None:
        self.mailbox = mailbox
        self.future: Future[None] = loop.create_future()
        self.let_in = False  #: although there is no room: waiting would never end

    def blocked_by(self) -> Work | None:
        return None if self.let_in else self.mailbox.current

    def give_up(self) -> bool:
        self.let_in = True
        self.wake()
        return True

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Mailbox:
    """In the order in which they came, and a higher priority before a lower one."""

    __slots__ = ("agent_id", "bound", "current", "queue", "waiting")

    def __init__(self, agent_id: AgentId, bound: int) -> None:
        self.agent_id = agent_id
        self.bound = bound
        self.queue: deque[Call] = deque()
        self.current: Call | None = None  #: the one that is handled
        self.waiting: deque[Room] = deque()  #: who waits for room, in order

    @property
    def is_full(self) -> bool:
        return len(self.queue) >= self.bound

    def put(self, call: Call) -> None:
        """Queues it, whether or not there is room."""
        queue, priority = self.queue, call.envelope.priority
        place = len(queue)
        while place and queue[place - 1].envelope.priority < priority:
            place -= 1
        queue.insert(place, call)
        self.wake_next()

    def take(self) -> Call:
        """The next one; from now on it is no longer queued."""
        call = self.queue.popleft()
        self.wake_next()
        return call

    def remove(self, call: Call) -> None:
        """Takes one out that has not begun."""
        self.queue.remove(call)
        self.wake_next()

    def wake_next(self) -> None:
        """If there is room, the one who has waited longest goes on; it has to come back here when it takes none."""
        if self.waiting and not self.is_full:
            self.waiting.popleft().wake()
