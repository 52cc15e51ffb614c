"""What a client asks of its coordinator: sent, sent again until it is answered, and at some point given up.

Every request can be sent any number of times: a task id is one task, and watching or cancelling twice is doing it once.
So after a broken connection or a long silence it simply goes out again, under a new request id. What one call has sent
and not had answered is limited, so that a coordinator which refuses is heard before its inbox is full.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from core.a2a_messaging import MOST_ITEMS
from core.backoff import Backoff
from core.client.rejection import LATEST, rejection_of
from core.config.settings import RedisConfig
from core.errors import ServerRefused, TaskTimeout, TransportDown
from core.ports import Command
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import CoordinatorKeys
from core.redis_client import Wire
from core.roles import Action, Address
from core.runtime.outbox import Outbox, chunks
from core.server_info import is_other_type, of_another_type, passes_soon, why_refused
from core.signing import Keys
from core.step import Sending, Step

__all__ = ["Refused", "Requests"]

#: What a coordinator did not do: for each item its id and the reason.
Refused = list[dict[str, str]]

#: How long the coordinator may say nothing before what it has not answered is sent again.
ANSWER_S = 5.0
#: How long it may say nothing before the client looks whether its message was rejected.
REJECTED_S = 0.5
#: Messages of one call that go out in one write, and bytes of them that may wait for an answer.
MESSAGES_AT_ONCE, MOST_UNANSWERED_BYTES = 4, 4 * 1024 * 1024

Messages = Iterator[list[Sequence[bytes]]]


@dataclass(slots=True, eq=False)
class _Asking:
    """What one call waits for."""

    waiting: dict[str, Sequence[bytes]] = field(default_factory=dict)  #: request id -> its items
    size: int = 0  #: bytes of those
    posted: set[bytes] = field(default_factory=set)  #: the ids that its messages have in the coordinator's inbox
    again: deque[Sequence[bytes]] = field(default_factory=deque)  #: items of requests that are to be sent once more
    before: dict[str, Sequence[bytes]] = field(default_factory=dict)  #: request id -> its items, of what was sent again
    refused: Refused = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def sends(self, request_id: str, items: Sequence[bytes]) -> None:
        self.waiting[request_id] = items
        self.size += sum(map(len, items))

    def sent_again(self) -> list[Sequence[bytes]]:
        """The next messages that are to be sent once more."""
        return [self.again.popleft() for _ in range(min(MESSAGES_AT_ONCE, len(self.again)))]

    def send_all_again(self) -> None:
        """Everything unanswered is to be sent once more, under new request ids."""
        self.again.extend(self.waiting.values())
        self.before.update(self.waiting)
        self.waiting.clear()
        self.size = 0

    def hears(self, request_id: str, refused: Refused) -> None:
        """An answer has come. One to a request that was sent again since counts if all of it was done: a coordinator
        with a long inbox may always answer the copy before the last. What it refused then, it may do now."""
        if request_id in self.waiting:
            self.refused += refused
        elif (items := self.before.pop(request_id, None)) is None or refused:
            return
        else:
            newer = [one for one, same in self.waiting.items() if same is items]
            self.again = deque(same for same in self.again if same is not items)
            request_id = newer[0] if newer else ""
            self.before |= dict.fromkeys(newer, items)  # its answer will come too, and changes nothing
        self.size -= sum(map(len, self.waiting.pop(request_id, ())))
        self.news.set()


class Requests:
    """A client's own connection, and what it has asked over it. Answers come elsewhere: `answer` is told of them."""

    def __init__(
        self, redis: RedisConfig, coordinator: Address, me: Address, signing: Keys, clock: ServerClock
    ) -> None:
        self._redis = redis
        self._coordinator = coordinator
        self._me = me
        self._keys = CoordinatorKeys(coordinator.agent_id)
        self._clock = clock
        self._outbox = Outbox((coordinator, me), signing)
        self._wire = Wire(redis)
        self._lock = asyncio.Lock()
        self._asking: dict[str, _Asking] = {}  # by request id

    async def open(self) -> None:
        """Connects. Raises TransportDown, ConfigError."""
        await self.synchronise()
        self._outbox.incarnation = self._clock.now_ms()

    async def close(self) -> None:
        await self._wire.close()

    async def run(self, *commands: Command) -> list[Any]:
        """The replies, in order, errors among them. Raises TransportDown, ConfigError."""
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            return await self._wire.exchange(commands)

    async def synchronise(self) -> None:
        """Asks the server for its time."""
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            asked_s = time.monotonic()
            [reply] = await self._wire.exchange([("TIME",)])
            self._clock.sync(reply, asked_s)

    def answer(self, request_id: str, refused: Refused) -> None:
        """The coordinator has answered a request; an answer to one that was given up is dropped."""
        asking = self._asking.pop(request_id, None)
        if asking is not None:
            asking.hears(request_id, refused)

    async def ask(self, action: Action, items: Iterable[bytes], timeout_s: float) -> Refused:
        """Sends `items` and waits until the coordinator has answered all: returns what it refused.

        `items` is consumed as it is sent, so that the first are worked on while the last are still being encoded.
        Raises TaskTimeout: no answer within `timeout_s`; TransportDown: Redis was away until then; either way it may
        have been done or be done later, and asking again is safe. Raises ServerRefused: Redis takes nothing now;
        PeerError: the coordinator rejects what this client sends.
        """
        deadline_s = time.monotonic() + timeout_s
        asking, unsent = _Asking(), _messages(items)
        backoff, patience_s = Backoff(), REJECTED_S
        try:
            while True:
                try:
                    await self._send_what_may_be(action, asking, unsent)
                    if not asking.waiting:
                        return asking.refused
                    heard = await _heard(asking, min(patience_s, deadline_s - time.monotonic()))
                    if asking.waiting and time.monotonic() >= deadline_s:
                        raise TaskTimeout(self._silence(timeout_s))
                    if not heard:
                        await self._raise_if_rejected(asking)
                        if patience_s == ANSWER_S:
                            asking.send_all_again()
                    patience_s = ANSWER_S
                    backoff.reset()
                except TransportDown as error:
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise TransportDown(f"{error}. Tried for {timeout_s:g} s. {_AGAIN}") from error
                    await asyncio.sleep(min(left_s, backoff.next(random.random())))
                    asking.send_all_again()
        finally:
            for request_id in (*asking.waiting, *asking.before):
                self._asking.pop(request_id, None)

    async def _send_what_may_be(self, action: Action, asking: _Asking, unsent: Messages) -> None:
        """Sends until there is nothing left, or too much is unanswered."""
        while asking.size < MOST_UNANSWERED_BYTES:
            async with self._lock:
                if not self._wire.connected:
                    await self._wire.connect()
                messages = asking.sent_again() or next(unsent, [])
                if not messages:
                    return
                commands = [command for one in messages for command in self._prepared(action, one, asking)]
                replies = await self._wire.exchange(commands)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise _refusal(str(reply), self._keys.inbox)
                asking.posted.add(reply)

    def _prepared(self, action: Action, items: Sequence[bytes], asking: _Asking) -> list[Command]:
        step = Step()
        step.sends[Sending(self._coordinator, action)] = list(items)
        commands = self._outbox.commands(step, self._clock.now_ms())
        request_id = self._outbox.request_id(self._coordinator, self._outbox.sent[self._coordinator])
        asking.sends(request_id, items)
        self._asking[request_id] = asking
        return commands

    async def _raise_if_rejected(self, asking: _Asking) -> None:
        """Raises the PeerError for which there is no answer, when the coordinator rejected what this call has sent."""
        [entries] = await self.run(("XREVRANGE", self._keys.agent.quarantine, "+", "-", "COUNT", LATEST))
        if not isinstance(entries, Exception) and (error := rejection_of(entries, self._me, asking.posted)):
            raise error

    def _silence(self, timeout_s: float) -> str:
        return (
            f"{self._coordinator} did not answer at {self._redis.endpoint} within {timeout_s:g} s."
            " Is it running? `agents status` shows it, `agents up` starts one. It finds the request in its"
            f" inbox when it starts. {_AGAIN}"
        )


_AGAIN = "Asking again for the same ids is safe, and one task."


def _messages(items: Iterable[bytes]) -> Messages:
    """What goes out in one write each."""
    source = iter(items)
    while part := list(islice(source, MOST_ITEMS * MESSAGES_AT_ONCE)):
        yield list(chunks(part))


async def _heard(asking: _Asking, timeout_s: float) -> bool:
    """Whether there was news, or there is within that time."""
    if not asking.news.is_set() and timeout_s > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asking.news.wait()
    heard = asking.news.is_set()
    asking.news.clear()
    return heard


def _refusal(text: str, inbox: str) -> ServerRefused | TransportDown:
    """What a server's error reply to a request means for who asks."""
    if is_other_type(text):  # a coordinator that lives puts that right
        return TransportDown(of_another_type(inbox))
    if passes_soon(text):
        return TransportDown(f"Redis is not ready: {text}")
    return ServerRefused(f"Redis does not take the request: {why_refused(text)}. {_AGAIN}")
