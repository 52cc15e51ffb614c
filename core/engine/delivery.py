"""How calls come to be handled: each agent's one after the other, those of different agents side by side."""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from core.engine.agent_id import AgentId
from core.engine.cancellation import CancellationToken
from core.engine.envelopes import SendMessageEnvelope
from core.engine.mailbox import Call, Mailbox, Room
from core.engine.work import Work, current_work, refuse_ring, ring

__all__ = ["Delivery"]

#: So many requests, each made while the one before is handled, are served out of turn. More than that has no end.
MAX_DEPTH = 100


class Delivery:
    """The mailboxes of an engine. `handle` handles a call, in a task of its own. `after` is called when one has ended,
    or was withdrawn."""

    def __init__(
        self,
        handle: Callable[[Call], Coroutine[Any, Any, None]],
        after: Callable[[], None],
        *,
        bound: int,
        reentrant: bool,
    ) -> None:
        self._handle, self._after = handle, after
        self._bound, self._reentrant = bound, reentrant
        self._mailboxes: dict[AgentId, Mailbox] = {}
        self._context: Context = copy_context()
        self._holds = 0
        self.running: dict[Call, None] = {}
        self.queued = 0

    def mailbox(self, agent_id: AgentId) -> Mailbox:
        found = self._mailboxes.get(agent_id)
        if found is None:
            found = self._mailboxes[agent_id] = Mailbox(agent_id, self._bound)
        return found

    @property
    def is_idle(self) -> bool:
        """Nothing is queued, and no handler runs."""
        return not self.queued and not self.running

    def use_context(self) -> None:
        """Handlers run in copies of the context that this is called in, whoever sends to them."""
        self._context = copy_context()

    # ---- in ----

    async def room_for(self, calls: Sequence[Call]) -> None:
        """Returns when all have room in their mailboxes, or waiting for it would never end. Is cancelled by the token
        of their message."""
        waiter = current_work()
        if self._holds and waiter is not None:
            return  # what is held makes no room until the waiter has gone on
        let_in: set[Mailbox] = set()
        been: Mailbox | None = None
        while True:
            full = self._full(calls, been, let_in)
            if been is not None and full is not been:
                been.wake_next()
            if full is None:
                return
            if await self._room(full, waiter, calls[0].envelope.cancellation_token):
                let_in.add(full)
            been = full

    def _full(self, calls: Sequence[Call], been: Mailbox | None, let_in: set[Mailbox]) -> Mailbox | None:
        """The first of the mailboxes that has to be waited for: it is full, or others wait already."""
        for call in calls:
            mailbox = call.mailbox
            if mailbox not in let_in and (mailbox.is_full or (mailbox.waiting and mailbox is not been)):
                return mailbox
        return None

    async def _room(self, mailbox: Mailbox, waiter: Work | None, token: CancellationToken) -> bool:
        """Waits for room. Returns whether to go in even if there is none."""
        room = Room(mailbox, asyncio.get_running_loop())
        if waiter is not None:
            if ring(waiter, room) is not None:
                return True
            waiter.waits[room] = None
        mailbox.waiting.append(room)
        try:
            await token.link_future(room.future)
        except asyncio.CancelledError:
            if room in mailbox.waiting:
                mailbox.waiting.remove(room)
            mailbox.wake_next()
            raise
        finally:
            if waiter is not None:
                del waiter.waits[room]
        if room in mailbox.waiting:  # let in
            mailbox.waiting.remove(room)
        return room.let_in

    def is_ring(self, call: Call) -> bool:
        """Whether the call would wait for its caller. Raises RequestRing if it may not be served out of turn."""
        caller = call.caller
        if caller is None or call.mailbox.current is None:
            return False
        if self._reentrant and call.depth <= MAX_DEPTH:
            return ring(caller, call) is not None
        refuse_ring(caller, call)
        return False

    def put(self, call: Call, *, out_of_turn: bool = False) -> None:
        """Begins it if its turn has come, else queues it. There is room, or it need not wait for it."""
        mailbox = call.mailbox
        if out_of_turn:
            self._begin(call)
        elif mailbox.current is None and not mailbox.queue and self._may_begin(call):
            mailbox.current = call
            self._begin(call)
        else:
            self.queued += 1
            mailbox.put(call)
            if mailbox.current is None:  # those before it are held, and it may not be
                self._advance(mailbox)

    # ---- on ----

    def _may_begin(self, call: Call) -> bool:
        return not self._holds or call.caller is not None

    def _begin(self, call: Call) -> None:
        call.began = True
        self.running[call] = None
        # Not by the loop's task factory: an eager one would run the handler within the call of whoever sends.
        call.task = Task(self._handle(call), loop=asyncio.get_running_loop(), context=self._context.copy())
        call.task.add_done_callback(partial(self._task_ended, call))

    def end(self, call: Call) -> None:
        """It was handled: the next one of its mailbox begins."""
        if call.ended:
            return
        call.ended = True
        del self.running[call]
        mailbox = call.mailbox
        if mailbox.current is call:
            mailbox.current = None
            if mailbox.queue:
                self._advance(mailbox)
        self._after()

    def _task_ended(self, call: Call, task: Task[None]) -> None:
        """Also when it was cancelled before it could do anything, or with what ends the whole loop."""
        self.end(call)
        if (task.cancelled() or task.exception() is not None) and isinstance(call.envelope, SendMessageEnvelope):
            call.envelope.future.cancel()

    def _advance(self, mailbox: Mailbox) -> None:
        while mailbox.current is None and mailbox.queue:
            call = self._take(mailbox)
            if call is None:
                return
            mailbox.current = call
            self._begin(call)

    def _take(self, mailbox: Mailbox) -> Call | None:
        if not self._holds:
            self.queued -= 1
            return mailbox.take()
        call = next((call for call in mailbox.queue if self._may_begin(call)), None)
        if call is not None:
            self.queued -= 1
            mailbox.remove(call)
        return call

    # ---- out ----

    def withdraw(self, call: Call) -> None:
        """Nobody waits for it any more: if it is queued, it is not handled."""
        if not call.began and call in call.mailbox.queue:
            call.mailbox.remove(call)
            self.queued -= 1
            self._after()

    def drop_queued(self) -> list[Call]:
        """Takes everything out that has not begun. Whoever waits for room goes on."""
        dropped = [call for mailbox in self._mailboxes.values() for call in mailbox.queue]
        for mailbox in self._mailboxes.values():
            mailbox.queue.clear()
            while mailbox.waiting:
                mailbox.waiting.popleft().wake()
        self.queued = 0
        return dropped

    def calls(self) -> Iterable[Call]:
        """All that has not ended: first what runs, then what is queued, each mailbox in its order."""
        yield from self.running
        for mailbox in self._mailboxes.values():
            yield from mailbox.queue

    # ---- held ----

    def hold(self) -> None:
        """Until `release`, only requests begin that a running handler waits for."""
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1
        if not self._holds:
            for mailbox in self._mailboxes.values():
                self._advance(mailbox)
