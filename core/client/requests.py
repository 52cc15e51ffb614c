"""Requests of a client to its coordinator: sent, sent again until they are answered, and given up in the end.

Every request can be sent any number of times: a task id is one task, and watching or cancelling twice has the effect of
once. So after a broken connection or a long silence it is sent again under a new request id. The unanswered requests of
one call are limited, so that a coordinator that refuses is heard before its inbox is full.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from core.a2a_messaging import MAX_ITEMS
from core.backoff import Backoff
from core.client.rejection import LATEST, rejection_of
from core.client.server import Server
from core.errors import ServerRefused, TaskTimeout, TransportDown
from core.ports import Command
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.keys import CoordinatorKeys
from core.reports import Refusal
from core.roles import Action, Address
from core.runtime.outbox import Outbox, chunks
from core.server_info import is_other_type, of_another_type, passes_soon, why_refused
from core.signing import KeyRing
from core.step import Sending, Step
from core.trace_context import TraceContext

__all__ = ["Refused", "Requests"]

#: The refused items of a request.
Refused = list[Refusal]

#: Seconds of silence after which unanswered requests are sent again; each time twice as long, so that a coordinator
#: that is slow is waited for at last. The answer to the latest copy is the one that always counts.
ANSWER_S = 5.0
#: Seconds of silence after which the client checks whether its message was rejected.
REJECTED_S = 0.5
#: Messages of one call in one write, and bytes of them that may be unanswered.
MESSAGES_AT_ONCE, MAX_UNANSWERED_BYTES = 4, 4 * 1024 * 1024

Messages = Iterator[list[Sequence[bytes]]]


@dataclass(slots=True, eq=False)
class _Asking:
    """The unanswered requests of one call."""

    trace: TraceContext | None
    waiting: dict[str, Sequence[bytes]] = field(default_factory=dict)  #: request id -> its items
    size: int = 0  #: bytes of these items
    posted: set[bytes] = field(default_factory=set)  #: entry ids of its messages in the coordinator's inbox
    again: deque[Sequence[bytes]] = field(default_factory=deque)  #: items of requests to send once more
    before: dict[str, Sequence[bytes]] = field(default_factory=dict)  #: request id -> its items, once sent again
    refused: Refused = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def sends(self, request_id: str, items: Sequence[bytes]) -> None:
        self.waiting[request_id] = items
        self.size += sum(map(len, items))

    def sent_again(self) -> list[Sequence[bytes]]:
        """The next messages to send once more."""
        return [self.again.popleft() for _ in range(min(MESSAGES_AT_ONCE, len(self.again)))]

    def send_all_again(self) -> None:
        """Schedules everything unanswered to be sent once more, under new request ids."""
        self.again.extend(self.waiting.values())
        self.before.update(self.waiting)
        self.waiting.clear()
        self.size = 0

    def hears(self, request_id: str, refused: Sequence[Refusal]) -> None:
        """Takes an answer. An answer to a request that was sent again since counts if nothing was refused: a
        coordinator with a long inbox may always answer the copy before the last. What it refused then, it may accept
        now."""
        if request_id in self.waiting:
            self.refused += refused
        elif (items := self.before.pop(request_id, None)) is None or refused:
            return
        else:
            newer = [other_id for other_id, same in self.waiting.items() if same is items]
            self.again = deque(same for same in self.again if same is not items)
            request_id = newer[0] if newer else ""
            self.before |= dict.fromkeys(newer, items)  # its answer will also come, and changes nothing
        self.size -= sum(map(len, self.waiting.pop(request_id, ())))
        self.news.set()


class Requests:
    """A client's own connection, and its requests on it. Answers arrive elsewhere and are passed to `answer`."""

    def __init__(self, server: Server, coordinator: Address, me: Address, signing: KeyRing, clock: ServerClock) -> None:
        self._server = server
        self._coordinator = coordinator
        self._me = me
        self._keys = CoordinatorKeys(coordinator.agent_id)
        self._clock = clock
        self._outbox = Outbox((coordinator, me), signing)
        self._wire = server.connection()
        self._lock = asyncio.Lock()
        self._asking: dict[str, _Asking] = {}  # by request id

    async def open(self) -> None:
        """Connects. Raises TransportDown, ConfigError."""
        await self.synchronise()
        self._outbox.incarnation = self._clock.now_ms()

    async def close(self) -> None:
        await self._wire.close()

    async def run(self, *commands: Command) -> list[Any]:
        """The replies, in order, errors among them. Raises TransportDown."""
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            return await self._wire.exchange(commands)

    async def synchronise(self) -> None:
        """Asks the server for its time."""
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            asked_s = monotonic_s()
            [reply] = await self._wire.exchange([("TIME",)])
            self._clock.sync(reply, asked_s)

    def answer(self, request_id: str, refused: Sequence[Refusal]) -> None:
        """Takes the coordinator's answer to a request; it is dropped if the request was given up."""
        asking = self._asking.pop(request_id, None)
        if asking is not None:
            asking.hears(request_id, refused)

    async def ask(
        self, action: Action, items: Iterable[bytes], timeout_s: float, trace: TraceContext | None = None
    ) -> Refused:
        """Sends `items`, waits until the coordinator has answered for all, and returns the refused ones. `trace`: what
        they belong to.

        `items` is consumed while it is sent, so that the first are processed while the last are still being encoded.
        Raises TaskTimeout: there was no answer within `timeout_s`. TransportDown: Redis was away until then. In both
        cases the request may have been carried out, or may be later, and asking again is safe. ServerRefused: Redis
        accepts nothing now. PeerError: the coordinator rejects the messages of this client.
        """
        deadline_s = monotonic_s() + timeout_s
        asking, unsent = _Asking(trace), _messages(items)
        backoff, patience_s, answer_s = Backoff(), REJECTED_S, ANSWER_S
        try:
            while True:
                try:
                    await self._send_what_may_be(action, asking, unsent)
                    if not asking.waiting:
                        return asking.refused
                    heard = await _heard(asking, min(patience_s, deadline_s - monotonic_s()))
                    if asking.waiting and monotonic_s() >= deadline_s:
                        raise TaskTimeout(self._silence(timeout_s))
                    if not heard:
                        await self._raise_if_rejected(asking)
                        if patience_s == answer_s:
                            asking.send_all_again()
                            answer_s *= 2
                    patience_s = answer_s
                    backoff.reset()
                except TransportDown as error:
                    left_s = deadline_s - monotonic_s()
                    if left_s <= 0:
                        raise TransportDown(f"{error}. Tried for {timeout_s:g} s. {_AGAIN}") from error
                    await asyncio.sleep(min(left_s, backoff.next(random.random())))
                    asking.send_all_again()
        finally:
            for request_id in (*asking.waiting, *asking.before):
                self._asking.pop(request_id, None)

    async def _send_what_may_be(self, action: Action, asking: _Asking, unsent: Messages) -> None:
        """Sends until nothing is left, or too much is unanswered."""
        while asking.size < MAX_UNANSWERED_BYTES:
            async with self._lock:
                if not self._wire.connected:
                    await self._wire.connect()
                messages = asking.sent_again() or next(unsent, [])
                if not messages:
                    return
                commands = [command for message in messages for command in self._prepared(action, message, asking)]
                replies = await self._wire.exchange(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise _refusal(str(reply), self._keys.inbox)
                asking.posted.add(reply)

    def _prepared(self, action: Action, items: Sequence[bytes], asking: _Asking) -> list[Command]:
        step = Step(trace=asking.trace)
        step.sends[Sending(self._coordinator, action)] = list(items)
        commands = self._outbox.commands(step, self._clock.now_ms())
        request_id = self._outbox.request_id(self._coordinator, self._outbox.sent[self._coordinator])
        asking.sends(request_id, items)
        self._asking[request_id] = asking
        return commands

    async def _raise_if_rejected(self, asking: _Asking) -> None:
        """Raises the PeerError that explains the missing answer, if the coordinator rejected messages of this call."""
        [entries] = await self.run(("XREVRANGE", self._keys.agent.quarantine, "+", "-", "COUNT", LATEST))
        if not isinstance(entries, Exception) and (error := rejection_of(entries, self._me, asking.posted)):
            raise error

    def _silence(self, timeout_s: float) -> str:
        return (
            f"{self._coordinator} did not answer at {self._server.endpoint} within {timeout_s:g} s."
            " Is it running? `agents status` shows it, `agents up` starts one. It finds the request in its"
            f" inbox when it starts. {_AGAIN}"
        )


_AGAIN = "Asking again for the same ids is safe, and one task."


def _messages(items: Iterable[bytes]) -> Messages:
    """The batches, each of which goes out in one write."""
    source = iter(items)
    while part := list(islice(source, MAX_ITEMS * MESSAGES_AT_ONCE)):
        yield list(chunks(part))


async def _heard(asking: _Asking, timeout_s: float) -> bool:
    """Whether news has come, or comes within that time."""
    if not asking.news.is_set() and timeout_s > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asking.news.wait()
    heard = asking.news.is_set()
    asking.news.clear()
    return heard


def _refusal(text: str, inbox: str) -> ServerRefused | TransportDown:
    """What a server's error reply to a request means for the caller."""
    if is_other_type(text):  # a living coordinator repairs that
        return TransportDown(of_another_type(inbox))
    if passes_soon(text):
        return TransportDown(f"Redis is not ready: {text}")
    return ServerRefused(f"Redis does not take the request: {why_refused(text)}. {_AGAIN}")
