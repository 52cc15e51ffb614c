"""An event bus in one process: handlers are called with the events that they want.

`await publish()` returns when the handlers have run. `publish_nowait()` returns at once, also in other threads. In both
cases the handler of a subscription is called for one event at a time, in the order in which they were published.

A bus lives on the event loop that it is first used on, where its handlers run. When that loop has stopped and the bus
is used on another, it goes on there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Self

from core.agent_event import AgentEvent
from core.errors import BusClosed
from core.event_types import EventType
from core.event_types import event_type as resolved
from core.events.delivery import Delivery, at, raise_all
from core.events.emitters import Emitters
from core.events.history import History
from core.events.subscription import EventHandler, HandlerError, Overflow, Subscription
from core.events.turns import Call, Line, Wait, current_call

__all__ = ["EventBus"]

#: So many types that only another version knows are counted by name, and the further ones together.
FOREIGN_TYPES, OTHER_TYPES = 1000, "other types"


class _Awaited(Wait):
    """Somebody waits for an event."""

    __slots__ = ("closed", "event", "kind", "wanted")

    def __init__(self, kind: EventType, wanted: Subscription) -> None:
        super().__init__()
        self.kind, self.wanted = kind, wanted
        self.event: AgentEvent | None = None
        self.closed = False  # the bus was, before it came


class EventBus(Emitters):
    """Tells subscribers in this process what happens, and remembers the latest of it.

    `max_history`: how many events are kept for `get_history`; 0: none. `max_concurrent_handlers`: how many handlers are
    at work at once. A handler that awaits something of the bus (`publish`, an emitter, `wait_for`, `aclose`) is not at
    work meanwhile, so that handlers can wait for each other's events to any depth.

    Use it with `async with`, or call `aclose`; a bus without a queued event can just as well be forgotten. What is no
    coroutine can be called in any thread, and a coroutine be awaited on any event loop."""

    def __init__(self, max_history: int = 1000, max_concurrent_handlers: int = 10) -> None:
        if max_history < 0 or max_concurrent_handlers < 1:
            raise ValueError("max_history has to be 0 or more, and max_concurrent_handlers 1 or more")
        self._delivery = Delivery(max_concurrent_handlers)
        self._lock = self._delivery.lock  # around all that follows
        self._lines = self._delivery.lines
        self._by_type: dict[EventType | None, dict[str, Line]] = {}  # None: those who want all
        self._history = History(max_history)
        self._awaited: dict[EventType, list[_Awaited]] = {}
        self._published: dict[str, int] = dict.fromkeys(EventType, 0)
        self._events = self._subscribed = 0
        self._last_id = ""
        self._closing: list[Wait] = []
        self._closers: set[Call] = set()  # handlers that wait until it is closed
        self._refuses = self._closed = False

    # ---- subscriptions ----

    def subscribe(
        self,
        event_types: Iterable[EventType] | None,
        handler: EventHandler,
        filter_stream: str | None = None,
        filter_node: str | None = None,
        filter_execution: str | None = None,
        *,
        max_queue: int = 1000,
        overflow: Overflow | str = Overflow.DROP_OLDEST,
        block_s: float = 1.0,
    ) -> str:
        """From now on `handler` is called with the events of these types (None: of all) that pass the filters. Returns
        the id of the subscription.

        Up to `max_queue` events wait for the handler; `overflow` says what happens to one more. One whose publisher
        awaits it is never dropped, except by Overflow.BLOCK, after `block_s` seconds. Raises BadEvent for what is no
        type, and BusClosed."""
        if isinstance(event_types, str):
            raise TypeError(f"event_types is a list of types: write [{event_types!r}]")
        if not callable(handler):
            raise TypeError(f"a handler is a coroutine function, and {handler!r} cannot be called")
        if max_queue < 1 or block_s < 0:
            raise ValueError("max_queue has to be 1 or more, and block_s 0 or more")
        types = None if event_types is None else frozenset(map(resolved, event_types))
        with self._lock:
            self._refuse_if_closed()
            self._subscribed += 1
            line = Line(
                Subscription(
                    id=f"sub_{self._subscribed}", event_types=types, handler=handler, filter_stream=filter_stream,
                    filter_node=filter_node, filter_execution=filter_execution,
                    max_queue=max_queue, overflow=Overflow(overflow), block_s=block_s,
                )
            )  # fmt: skip
            self._lines[line.subscription.id] = line
            for kind in types if types is not None else (None,):
                self._by_type.setdefault(kind, {})[line.subscription.id] = line
        return line.subscription.id

    def unsubscribe(self, subscription_id: str) -> bool:
        """Ends a subscription: its handler is not called again, and what waits for it is dropped. A call that has begun
        goes on. Returns whether there was such a subscription."""
        with self._lock:
            line = self._lines.pop(subscription_id, None)
            if line is None:
                return False
            types = line.subscription.event_types
            for kind in types if types is not None else (None,):
                del self._by_type[kind][subscription_id]
                if not self._by_type[kind]:
                    del self._by_type[kind]
            line.ended = True
            self._delivery.cancel(list(line.queue))
        self._delivery.advance_soon()
        return True

    # ---- publishing ----

    async def publish(self, event: AgentEvent, *, raise_errors: bool = False) -> None:
        """Tells all who want the event, and returns when their handlers have run.

        The handlers run side by side. One that fails disturbs neither the others nor the publisher: see `get_errors`.
        With `raise_errors` an ExceptionGroup of what they raised is raised once all have run. If the publisher is
        cancelled, so are they; if one of them was cancelled, CancelledError is raised. A handler that is the only one
        runs in the task of the publisher, others in tasks of their own with a copy of its context.

        Raises BadEvent, and nobody is told; or BusClosed."""
        home = self._delivery.elsewhere()
        if home is not None:
            return await at(home, self.publish(event, raise_errors=raise_errors))
        event.check()
        with self._lock:
            lines = self._admit(event)
            alone = self._delivery.alone(lines, event)
            publication = self._delivery.queue_awaited(lines, event) if lines and alone is None else None
        if self._delivery.over:
            self._delivery.advance()
        if alone is not None:
            error = await self._delivery.run_here(alone)
            raise_all([error] if raise_errors and error is not None else [])
        elif publication is not None:
            await self._delivery.until_over(publication, partial(self._delivery.cancel, publication.calls))
            if publication.one_was_cancelled:
                raise asyncio.CancelledError("a handler was cancelled")
            raise_all(publication.errors if raise_errors else [])

    def publish_nowait(self, event: AgentEvent) -> None:
        """Tells all who want the event, and waits for none of them: at each it stands in a queue (see `subscribe`).

        Raises BadEvent, and nobody is told; or BusClosed."""
        event.check()
        with self._lock:
            lines = self._admit(event)
            self._delivery.queue(lines, event)
        if lines or self._delivery.over:
            self._delivery.advance_soon()

    def _admit(self, event: AgentEvent) -> list[Line]:
        """Notes the event. Returns the lines of those who want it."""
        if self._refuses:
            self._refuse_if_closed()
        self._events += 1
        event.sequence = event.sequence or self._events
        try:
            self._published[event.type] += 1
        except KeyError:
            self._count_foreign(event.type)
        self._history.add(event)
        self._last_id = event.id
        if event.type in self._awaited:
            self._tell_awaiting(event)
        lines = [*self._by_type.get(event.type, {}).values(), *self._by_type.get(None, {}).values()]
        return [line for line in lines if not line.filtered or line.subscription.matches(event)]

    def _count_foreign(self, kind: EventType) -> None:
        counted = kind if len(self._published) < len(EventType) + FOREIGN_TYPES else OTHER_TYPES
        self._published[counted] = self._published.get(counted, 0) + 1

    def _tell_awaiting(self, event: AgentEvent) -> None:
        for awaited in self._awaited[event.type].copy():
            if awaited.wanted.matches(event):
                awaited.event = event
                self._forget(awaited)

    def _refuse_if_closed(self) -> None:
        """While the bus closes, what handlers publish belongs to what is still handled."""
        if self._closed or (self._refuses and current_call() is None):
            raise BusClosed("the event bus was closed, and tells nobody of anything any more. Make a new one.")

    # ---- what was published ----

    @property
    def last_id(self) -> str:
        """The id of the last event that was published, as `wait_for` takes it; empty: none was."""
        return self._last_id

    def get_history(
        self,
        event_type: EventType | None = None,
        stream_id: str | None = None,
        execution_id: str | None = None,
        limit: int | None = 100,
        *,
        node_id: str | None = None,
        correlation_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[AgentEvent]:
        """The last `limit` events (None: all that are kept) with these properties, newest first. `since` and `until`
        are aware times, and belong to the time between them.

        Of deltas whose `snapshot` the next one repeats, only the latest has it here."""
        _check_limit(limit)
        for moment in (since, until):
            if moment is not None and moment.utcoffset() is None:
                raise ValueError("since and until need a time zone. Use datetime.now(UTC).")
        kind = None if event_type is None else resolved(event_type)
        with self._lock:
            return self._history.newest((kind, stream_id, node_id, execution_id, correlation_id), limit, since, until)

    def get_stats(self) -> dict[str, Any]:
        """Numbers since the bus was made: `total_events` and `events_by_type` of what was published (of types that this
        version does not know, the first thousand by name, and the rest as "other types"); how often handlers
        have `handled` an event, `failed` or were `cancelled`, and how many events were `dropped`, in total and
        `by_subscription`. And how it is now: `subscriptions`, `kept_events`, `queued`, `running`."""
        with self._lock:
            return {
                "total_events": self._events,
                "subscriptions": len(self._lines),
                "events_by_type": {str(kind): count for kind, count in self._published.items() if count},
                "kept_events": len(self._history),
                "running": len(self._delivery.calls),
                "queued": self._delivery.turns.queued,
                **vars(self._delivery.outcomes),
                "by_subscription": {
                    each: {
                        "queued": len(line.queue),
                        "running": int(line.at_work is not None),
                        **vars(line.outcomes),
                    }
                    for each, line in self._lines.items()
                },
            }

    def get_errors(self, limit: int | None = 100) -> list[HandlerError]:
        """The last errors of handlers with their events, newest first. Up to 100 are kept. `raise failure.error` raises
        one again."""
        _check_limit(limit)
        with self._lock:
            return list(islice(reversed(self._delivery.errors), limit))

    # ---- waiting ----

    async def wait_for(
        self,
        event_type: EventType,
        stream_id: str | None = None,
        node_id: str | None = None,
        execution_id: str | None = None,
        timeout: float | None = None,
        *,
        after: str | None = None,
    ) -> AgentEvent | None:
        """The next event of this type with these properties; None if none comes within `timeout` seconds (None: for
        ever, 0: not at all).

        With `after`, the id of an event, it is the first one that came after that, if it is still kept; what comes
        between two calls is not missed then:

            before = bus.last_id
            start_the_work()
            done = await bus.wait_for(EventType.EXECUTION_COMPLETED, after=before)

        An id that is not kept, such as an empty one, means all that is kept. Raises BusClosed if no event can come."""
        home = self._delivery.elsewhere()
        if home is not None:
            return await at(home, self.wait_for(event_type, stream_id, node_id, execution_id, timeout, after=after))
        kind = resolved(event_type)
        with self._lock:
            if after is not None:
                found = self._history.first_after(after, (kind, stream_id, node_id, execution_id, None))
                if found is not None:
                    return found
            if timeout is not None and timeout <= 0:
                return None
            self._refuse_if_closed()
            wanted = Subscription(
                id="", event_types=frozenset({kind}), handler=_nobody,
                filter_stream=stream_id, filter_node=node_id, filter_execution=execution_id,
            )  # fmt: skip
            awaited = _Awaited(kind, wanted)
            self._awaited.setdefault(kind, []).append(awaited)
            self._delivery.turns.begin_wait(awaited)
        return await self._awaited_event(awaited, timeout)

    async def _awaited_event(self, awaited: _Awaited, timeout_s: float | None) -> AgentEvent | None:
        loop = asyncio.get_running_loop()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._time_is_up, awaited)
        try:
            await self._delivery.until_over(awaited, partial(self._forget, awaited))
        finally:
            if timer is not None:
                timer.cancel()
        if awaited.event is None and awaited.closed:
            raise BusClosed("the event bus was closed before the event came")
        return awaited.event

    def _time_is_up(self, awaited: _Awaited) -> None:
        with self._lock:
            self._forget(awaited)
        self._delivery.advance()

    def _forget(self, awaited: _Awaited) -> None:
        """Whoever waits goes on. Once that is so, it does nothing."""
        waiting = self._awaited.get(awaited.kind, [])
        if awaited in waiting:
            waiting.remove(awaited)
            if not waiting:
                del self._awaited[awaited.kind]
            self._delivery.over.append(awaited)

    # ---- beginning and end ----

    async def __aenter__(self) -> Self:
        self._delivery.elsewhere()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Returns when everything that was published has been handled. Meanwhile only handlers can publish, and whoever
        waits for an event is told that none comes.

        If it is cancelled, handlers are cancelled, and what has not begun is dropped. On a closed bus it does
        nothing. It can be awaited by a handler, for which it does not wait."""
        home = self._delivery.elsewhere()
        if home is not None:
            return await at(home, self.aclose())
        with self._lock:
            if self._closed:
                return
            self._refuses = True
            for awaited in [each for waiting in self._awaited.values() for each in waiting]:
                awaited.closed = True
                self._forget(awaited)
            closing = Wait()
            self._closing.append(closing)
            self._closers.update(_callers(closing))
            self._delivery.turns.begin_wait(closing)
            self._delivery.when_ended = self._close_if_idle
            self._close_if_idle()
        await self._delivery.until_over(closing, self._cancel_everything)

    def _cancel_everything(self) -> None:
        queued = [call for line in self._lines.values() for call in line.queue]
        self._closers.update(call for call in self._delivery.calls if call.task is None)  # those are their publishers'
        self._delivery.cancel([*queued, *(self._delivery.calls - self._closers)])
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._delivery.turns.queued and self._delivery.calls <= self._closers:
            self._closed = True
            self._delivery.over.extend(self._closing)
            self._closing.clear()


def _callers(wait: Wait) -> Iterator[Call]:
    """The call of the handler that waits, and those that wait for that."""
    call = wait.caller
    while call is not None:
        yield call
        call = call.publication.caller if call.publication is not None else None


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ValueError("limit has to be 0 or more, or None for all")


async def _nobody(event: AgentEvent) -> None:
    """Is never called: somebody waits for the event."""
