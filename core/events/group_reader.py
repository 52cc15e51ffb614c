"""What one consumer of an audience reads: its own pending entries first, then what is new, each until it is settled."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from core.errors import BadEvent, EventLoopError, PeerError, ServerRefused, TransportDown
from core.event_types import EventType
from core.events.audience import TAKEN_AT_ONCE, Audience
from core.events.stream_connection import StreamConnection
from core.events.stream_entry import Entry, EntryFormat, ReceivedEvent, session_of
from core.redis_backend.clock import monotonic_s

__all__ = ["GroupReader"]

log = logging.getLogger(__name__)

#: Acknowledgements travel with the next fetch, or by themselves when none was sent for so long.
ACKS_WAIT_S = 0.05
#: Between two attempts while Redis is away.
PAUSE_S = 0.2
#: How long one wait for news lasts at most.
MAX_WAIT_S = 1.0
#: In the time that makes a consumer count as gone, it says so often that it lives.
BEATS = 3


class GroupReader:
    """Reads for one consumer. An event that was handed out is in its hands until it is acknowledged, dead or released,
    and as long as there is one, the consumer says that it lives."""

    def __init__(
        self,
        audience: Audience,
        entries: EntryFormat,
        wanted: frozenset[EventType] | None,
        max_attempts: int,
        waiting: StreamConnection,
    ) -> None:
        """`wanted`: the types of events; None: all. `waiting`: a connection of its own, to wait on."""
        self.audience = audience
        self._entries = entries
        self._wanted = wanted
        self._max_attempts = max_attempts
        self._waiting = waiting
        self._silent_after_s = audience.silent_after_ms / 1000
        self._beating: asyncio.Task[None] | None = None
        self._beaten_s = 0.0  # when this consumer last said that it lives
        self._known = False  # whether it has counted as alive ever since
        self._looked_s = float("-inf")  # when it last looked for what others have left
        self._reading = 0  # which of the subscriptions, one after the other, is read
        self._is_reading = False
        self._fetched: deque[tuple[Entry, bool]] = deque()  # not handed out yet, and whether somebody may have tried it
        self._ahead: asyncio.Task[bool] | None = None  # fetches the next entries while these are handled
        self._is_more = False  # whether the last fetch has probably left something
        self._forgotten = 0  # how often what was fetched was dropped
        self._untried: set[bytes] = set()  # what was fetched and dropped before anybody tried it
        self._after = b"0-0"  # the last of its own entries that was fetched
        self._own_first = True  # whether there may be own entries that were left from before
        self._settled: list[tuple[str, str]] = []  # ids and sessions, acknowledged here and not in Redis yet
        self._on_its_way: set[str] = set()  # the ids of those that are being sent
        self._sent_s = 0.0  # when some were last sent
        self._in_hand: dict[str, ReceivedEvent] = {}

    # ---- a subscription ----

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[int]:
        """A subscription, which ends the one before it. `next` is asked with its number."""
        self._reading += 1
        mine, self._is_reading = self._reading, True
        self._forget()
        try:
            yield mine
        finally:
            if mine == self._reading:
                await asyncio.shield(self._end_reading())

    async def _end_reading(self) -> None:
        self._is_reading = False
        self._forget()
        with suppress(TransportDown, ServerRefused):
            await self._landed()
        with suppress(TransportDown, ServerRefused):  # what is not acknowledged now is read once more
            await self.flush()
            await self._rest()

    async def next(self, reading: int, within_s: float | None) -> ReceivedEvent | None:
        """The next event, in the hands of the caller from now on; None: none came `within_s` (None: it waits for one).

        Outlasts an outage of Redis. Raises ServerRefused; EventLoopError: another subscription has begun."""
        until_s = float("inf") if within_s is None else monotonic_s() + within_s
        while True:
            if reading != self._reading:
                raise EventLoopError("the subscription has ended: this consumer was closed, or has another one by now")
            try:
                now_s = monotonic_s()
                if not self._is_known(now_s):
                    await self.live()
                if self._settled and now_s - self._sent_s > ACKS_WAIT_S:
                    with suppress(TransportDown):  # they wait on, and what was fetched is handed out meanwhile
                        await self.flush()
                if event := await self._next_fetched():
                    return event
                if not await self._fetch() and not await self._news(until_s):
                    return None
            except TransportDown as error:
                if monotonic_s() >= until_s:
                    return None
                await self._pause(error, until_s)

    async def _pause(self, error: TransportDown, until_s: float) -> None:
        log.warning("waiting for Redis: %s", error, extra={"action": "stream_waits"})
        await asyncio.sleep(min(PAUSE_S, until_s - monotonic_s()))

    async def _next_fetched(self) -> ReceivedEvent | None:
        while self._fetched:
            entry, again = self._fetched[0]
            event = await self._opened(entry, again=again)
            if self._fetched and self._fetched[0][0] is entry:  # now, since what could not be opened is still next
                self._fetched.popleft()
            if event:
                return event
        return None

    async def _fetch(self) -> bool:
        """Fetches entries: once in a while what was left here or by others, else new ones. False: there are none."""
        if self._ahead is None and self._is_time_to_look():
            await self.audience.take_over(self.audience.silent_after_ms)
            self._looked_s, self._after, self._own_first = monotonic_s(), b"0-0", True
        if self._ahead is None and self._own_first:
            await self.flush()
            entries = await self.audience.own(self._after)
            self._keep(entries, again=True)
            if not entries:
                self._own_first = False
                self._untried.clear()
            return True
        found = await (self._landed() if self._ahead else self._take())
        await self._fetch_ahead()
        return found

    def _is_time_to_look(self) -> bool:
        return monotonic_s() - self._looked_s > self._silent_after_s / BEATS

    async def _take(self) -> bool:
        forgotten = self._forgotten
        with self._sending() as settled:
            taken, entries = await self.audience.take(settled, self._after)
        self._is_more = taken >= TAKEN_AT_ONCE
        if forgotten == self._forgotten:
            self._keep(entries, again=False)
        else:  # what was dropped meanwhile comes before these, and they come again with it
            self._untried |= {msg_id for msg_id, _ in entries}
        return taken > 0

    async def _fetch_ahead(self) -> None:
        """Begins to fetch the next entries, if there may be any and nothing else is due."""
        if self._is_more and not self._own_first and not self._is_time_to_look():
            self._ahead = asyncio.get_running_loop().create_task(self._take(), name="fetches ahead")
            await asyncio.sleep(0)  # it is under way before a handler keeps the loop

    async def _landed(self) -> bool:
        """Waits until what is fetched ahead is here, also when this is cancelled meanwhile. Raises what that raised."""
        ahead = self._ahead
        if ahead is None:
            return False
        await asyncio.wait([ahead])
        if self._ahead is ahead:
            self._ahead = None
        return ahead.result()

    def _keep(self, entries: Sequence[Entry], *, again: bool) -> None:
        not_free = self._taken_care_of()
        for entry in entries:
            if entry[0].decode() not in not_free:
                self._fetched.append((entry, again and entry[0] not in self._untried))
                self._untried.discard(entry[0])
        if entries:
            self._after = entries[-1][0]

    async def _opened(self, entry: Entry, *, again: bool) -> ReceivedEvent | None:
        """The event of an entry, in hand; None: nobody is to handle it, and it is settled."""
        msg_id, fields = entry[0].decode(), entry[1]
        if fields is None:  # it was deleted while it was pending
            self._settled.append((msg_id, ""))
            return None
        try:
            received = self._entries.event(msg_id, fields)
        except (PeerError, BadEvent) as error:
            await self.audience.bury(msg_id, session_of(fields), fields, f"{type(error).__name__}: {error}", 0)
            log.warning("an entry of the agent stream is no event: %s", error, extra={"action": "event_refused"})
            return None
        received.group = self.audience.keys.group
        if not self._is_wanted(received):
            self._settled.append((msg_id, received.session))
            return None
        if again:
            tries = await self.audience.count_try(msg_id)
            if tries >= max(2, self._max_attempts):  # at the first of them nobody may have tried it before
                received.attempt = tries
                await self._bury(received, "no handler has returned")
                return None
            received.attempt = 1 + tries
        self._in_hand[msg_id] = received
        return received

    def _is_wanted(self, received: ReceivedEvent) -> bool:
        if received.only_for is not None and received.only_for != received.group:
            return False
        return self._wanted is None or received.event.type in self._wanted

    async def _news(self, until_s: float) -> bool:
        """Waits until there may be something new. False: it is `until_s`."""
        left_s = min(MAX_WAIT_S, until_s - monotonic_s())
        if left_s <= 0:
            return False
        block_ms = max(1, int(left_s * 1000))
        stream, last = self.audience.keys.stream, self.audience.last
        await self._waiting.ask(("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", stream, last))
        return True

    # ---- what becomes of an event ----

    def handled(self, event: ReceivedEvent) -> None:
        """Acknowledges an event, together with others, at the latest with the next sign of life."""
        self._in_hand.pop(event.msg_id, None)
        self._settled.append((event.msg_id, event.session))

    async def failed(self, event: ReceivedEvent, reason: str) -> bool:
        """An attempt at an event has failed. False: that was the last one, and the event is a dead letter. Outlasts an
        outage of Redis."""
        while True:
            try:
                if event.attempt >= self._max_attempts:
                    await self._bury(event, reason)
                    return False
                event.attempt = 1 + await self.audience.count_try(event.msg_id)
                return True
            except TransportDown as error:
                await self._pause(error, float("inf"))

    async def acknowledge(self, msg_ids: Sequence[str]) -> int:
        """Acknowledges entries now. Returns how many of them were pending. Raises TransportDown."""
        count = await self.audience.settle([(msg_id, await self._session(msg_id)) for msg_id in msg_ids])
        for msg_id in msg_ids:
            self._in_hand.pop(msg_id, None)
        await self._rest()
        return count

    async def _session(self, msg_id: str) -> str:
        if msg_id in self._in_hand:
            return self._in_hand[msg_id].session
        return session_of(await self.audience.fields(msg_id))

    def release(self, event: ReceivedEvent) -> None:
        """Nobody handles the event now: it is pending, and will be handed out again."""
        self._in_hand.pop(event.msg_id, None)

    async def claim(self, min_idle_ms: int, most: int) -> list[ReceivedEvent]:
        """Takes over what consumers hold that are gone, and hands out at most `most` of what this one has by then."""
        await self.live()
        await self.audience.take_over(min_idle_ms)
        claimed: list[ReceivedEvent] = []
        after = b"0-0"
        while len(claimed) < most and (entries := await self.audience.own(after)):
            not_free = self._taken_care_of() | {entry[0].decode() for entry, _ in self._fetched}
            for entry in entries:
                is_free = entry[0].decode() not in not_free
                again = entry[0] not in self._untried
                if len(claimed) < most and is_free and (event := await self._opened(entry, again=again)):
                    claimed.append(event)
            after = entries[-1][0]
        await self.flush()
        await self._rest()
        return claimed

    async def flush(self) -> None:
        """Sends the acknowledgements that wait. Raises TransportDown: they still do."""
        with self._sending() as settled:
            if settled:
                await self.audience.settle(settled)

    @contextmanager
    def _sending(self) -> Iterator[list[tuple[str, str]]]:
        """The acknowledgements that wait. When the block fails, they still do."""
        settled, self._settled, self._sent_s = self._settled, [], monotonic_s()
        ids = {msg_id for msg_id, _ in settled}
        self._on_its_way |= ids
        try:
            yield settled
        except BaseException:
            self._settled += settled
            raise
        finally:
            self._on_its_way -= ids

    def _taken_care_of(self) -> set[str]:
        """What is pending in Redis and not to be handed out: it is in hand, or settled."""
        return self._in_hand.keys() | self._on_its_way | {msg_id for msg_id, _ in self._settled}

    async def _bury(self, event: ReceivedEvent, reason: str) -> None:
        await self.audience.bury(event.msg_id, event.session, event.fields, reason, event.attempt)
        self._in_hand.pop(event.msg_id, None)
        told = {"action": "event_dead", "msg_id": event.msg_id, "attempts": event.attempt}
        log.warning("an event is a dead letter now: %s", reason, extra=told)

    def _forget(self) -> None:
        """What was fetched and not handed out is read again."""
        self._untried |= {entry[0] for entry, again in self._fetched if not again}
        self._fetched.clear()
        self._forgotten += 1
        self._after, self._own_first = b"0-0", True
        if not self._is_reading:
            self._looked_s = float("-inf")

    # ---- signs of life ----

    async def live(self) -> None:
        """This consumer counts as alive from now on. If it did not since it last said so, others may have taken over
        what it had fetched, and it looks anew."""
        if self._is_known(monotonic_s()):
            return
        self._known = False
        await self._beat()
        self._known = True
        self._forget()
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_task(self._beat_on(), name="signs of life")

    def _is_known(self, now_s: float) -> bool:
        return self._known and now_s - self._beaten_s < self._silent_after_s

    async def _beat(self) -> None:
        said_s = monotonic_s()
        if not await self.audience.beat():
            self._known = False
        self._beaten_s = said_s

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self._silent_after_s / BEATS)
            with suppress(TransportDown, ServerRefused):  # too many that fail, and `live` notices
                await self._beat()
                await self.flush()

    async def _rest(self) -> None:
        """Says goodbye, unless something is in hand or is read."""
        if self._is_reading or self._in_hand or self._beating is None:
            return
        await self._stop_beating()
        await self.audience.leave()

    async def _stop_beating(self) -> None:
        beating, self._beating, self._known = self._beating, None, False
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def close(self) -> None:
        """Ends reading. What is in hand is read by others, or again."""
        self._reading += 1
        self._in_hand.clear()
        await self._end_reading()
        await self._stop_beating()
        await self._waiting.close()
