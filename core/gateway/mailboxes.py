"""The messages of agents: kept for each receiver until it has acknowledged them, or until they expire.

A message is stored once, and expires by the clock of Redis; a mailbox has the ids of those that wait, the most urgent
first. Whatever crashes, a message that was accepted stays: sending it again under its id adds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson

from core.backoff import Backoff
from core.checkpoints.connection import GroupedConnection
from core.errors import AgentSystemError, ServerRefused, TransportDown
from core.gateway.problems import Problem
from core.ports import Command, OpenConnection, Part
from core.redis_backend.gateway_keys import GatewayKeys
from core.stored import pairs

__all__ = ["PRIORITIES", "Mailboxes"]

#: From the least urgent on.
PRIORITIES = ("low", "normal", "high", "critical")
#: Messages that may wait for one agent, and sent ones that are remembered.
MAX_WAITING, MAX_REMEMBERED = 1000, 10_000
#: Mailboxes that are written to in one exchange, and entries of the history that one page reads at most.
AT_ONCE, MAX_READ = 500, 2000
BLOCK_MS = 2000
#: Seconds until a receiver looks again that could not reach Redis.
AGAIN_S = 0.25
#: Larger than any time of day, ms since 1970: more urgent messages come before all others.
RANK = 2**43
#: Where no entry can be behind.
BEFORE_ALL = "(0-0"
#: To whom a message goes that goes to many, in the history.
EVERYBODY = "*"


class Mailboxes:
    """Reads and writes them. Raises TransportDown and ServerRefused."""

    def __init__(self, connection: GroupedConnection, open_connection: OpenConnection, keys: GatewayKeys) -> None:
        self._run = connection.run
        self._keys = keys
        self._arrivals = Arrivals(open_connection, keys.messages)

    async def now_ms(self) -> int:
        """The time of Redis, since 1970."""
        [(seconds, microseconds)] = await self._run(("TIME",))
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def send(self, message: dict[str, Any], receivers: Sequence[str]) -> None:
        """Puts a message into the mailboxes. Raises Problem: one of them is full; nobody was sent anything, unless the
        message goes to many: then it is left out where there is no room."""
        full = await self._without_room(receivers)
        if full and len(receivers) == 1:
            raise Problem(
                503, f"{full[0]!r} has {MAX_WAITING} messages that it has not acknowledged; it has to read them"
            )
        message_id, ttl_ms = message["message_id"], int(message["ttl_s"] * 1000)
        urgency = len(PRIORITIES) - 1 - PRIORITIES.index(message["priority"])
        score = urgency * RANK + message["sent_ms"]
        await self._run(("SET", self._keys.message(message_id), orjson.dumps(message), "PX", ttl_ms))
        for group in _groups([name for name in receivers if name not in {*full}]):
            await self._run(*(command for name in group for command in self._put(name, message_id, score, ttl_ms)))
        told = {name: value for name, value in message.items() if name != "payload"}
        to = receivers[0] if len(receivers) == 1 else EVERYBODY
        await self._run(
            ("XADD", self._keys.messages, "MAXLEN", "~", MAX_REMEMBERED, "*", "to", to, "message", orjson.dumps(told))
        )

    def _put(self, name: str, message_id: str, score: int, ttl_ms: int) -> list[Command]:
        mailbox = self._keys.mailbox(name)
        return [
            ("ZADD", mailbox, score, message_id),
            ("PEXPIRE", mailbox, ttl_ms, "NX"),
            ("PEXPIRE", mailbox, ttl_ms, "GT"),
        ]

    async def _without_room(self, receivers: Sequence[str]) -> list[str]:
        full = []
        for group in _groups(receivers):
            counts = await self._run(*(("ZCARD", self._keys.mailbox(name)) for name in group))
            full += [name for name, count in zip(group, counts, strict=True) if count >= MAX_WAITING]
        return [name for name in full if len(await self._standing(name, MAX_WAITING)) >= MAX_WAITING]

    async def waiting(self, name: str, limit: int, tenant: str | None = None) -> list[dict[str, Any]]:
        """The messages that wait for an agent, the most urgent first, and of those the oldest. `tenant`: only those
        that were sent with its keys and tokens."""
        if tenant is not None:
            return (await self.every(name, tenant))[:limit]
        return [orjson.loads(message) for message in await self._standing(name, limit)]

    async def every(self, name: str, tenant: str) -> list[dict[str, Any]]:
        """All messages of a tenant that wait for an agent, in that order."""
        standing = [orjson.loads(message) for message in await self._standing(name, MAX_WAITING)]
        return [message for message in standing if message.get("tenant") == tenant]

    async def _standing(self, name: str, limit: int) -> list[bytes]:
        """What is in a mailbox and has not expired. What has, is removed."""
        while True:
            [ids] = await self._run(("ZRANGE", self._keys.mailbox(name), 0, limit - 1))
            if not ids:
                return []
            found = await self._run(*(("GET", self._keys.message(message_id.decode())) for message_id in ids))
            expired = [message_id for message_id, message in zip(ids, found, strict=True) if message is None]
            if not expired:
                return found
            await self._run(("ZREM", self._keys.mailbox(name), *expired))

    async def acknowledge(self, name: str, message_ids: Sequence[str]) -> int:
        """Removes messages from a mailbox; returns how many were in it."""
        if not message_ids:
            return 0
        [count] = await self._run(("ZREM", self._keys.mailbox(name), *message_ids))
        return int(count)

    async def receive(self, name: str, limit: int, timeout_s: float, tenant: str | None = None) -> list[dict[str, Any]]:
        """As `waiting`, but as soon as there are some; empty: none has come within that time. While Redis is away, it
        waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    arrival = await self._arrivals.expected(name)
                    try:
                        if found := await self.waiting(name, limit, tenant):
                            return found
                        await arrival
                    except TransportDown:
                        await asyncio.sleep(AGAIN_S)
                    finally:
                        self._arrivals.forget(name, arrival)
        return await self.waiting(name, limit, tenant)

    async def history(self, cursor: str | None, limit: int, wanted: dict[str, str]) -> tuple[list[Any], str | None]:
        """Sent messages with these values, the newest first, and the cursor of the next page; None: there is none.
        `agent` is a value of sender or receiver."""
        found: list[Any] = []
        last, left = f"({_entry_id(cursor)}" if cursor else "+", MAX_READ
        while left > 0 and last != BEFORE_ALL:
            [entries] = await self._run(("XREVRANGE", self._keys.messages, last, "-", "COUNT", 200))
            if not entries:
                return found, None
            left -= len(entries)
            for entry_id, fields in entries:
                last = f"({entry_id.decode()}"
                message = orjson.loads(pairs(fields)[b"message"])
                if _fits(message, wanted):
                    found.append(message)
                    if len(found) == limit:
                        return found, entry_id.decode()
        return found, None if last == BEFORE_ALL else last[1:]

    async def close(self) -> None:
        await self._arrivals.close()


def _entry_id(cursor: str) -> str:
    return "-".join(f"{int(part)}" for part in cursor.split("-"))


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE))


def _fits(message: dict[str, Any], wanted: dict[str, str]) -> bool:
    agents = (message["sender_id"], message["receiver_id"])
    return all(value in agents if name == "agent" else message.get(name) == value for name, value in wanted.items())


class Arrivals:
    """Tells those who wait that a message has come, with one connection for all of them."""

    def __init__(self, open_connection: OpenConnection, key: str) -> None:
        self._connection = open_connection()
        self._key = key
        self._expected: dict[str, set[asyncio.Future[None]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def expected(self, name: str) -> asyncio.Future[None]:
        """Done when something has come for that agent after this call. Call `forget` afterwards."""
        arrival = asyncio.get_running_loop().create_future()
        self._expected.setdefault(name, set()).add(arrival)
        if self._reader is None or self._reader.done():
            self._begun = asyncio.Event()
            self._reader = asyncio.create_task(self._read())
        await self._begun.wait()
        return arrival

    def forget(self, name: str, arrival: asyncio.Future[None]) -> None:
        waiting = self._expected.get(name, set())
        waiting.discard(arrival)
        if not waiting:
            self._expected.pop(name, None)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._connection.close()

    async def _read(self) -> None:
        """Reads as long as somebody waits. While Redis is away it tries again, and then everybody looks."""
        last, backoff = b"", Backoff()
        while self._expected:
            try:
                await self._connection.connect()
                if not last:
                    newest = await self._ask("XREVRANGE", self._key, "+", "-", "COUNT", 1)
                    last = newest[0][0] if newest else b"0-0"
                    self._begun.set()
                    self._wake(EVERYBODY)
                streams = await self._ask("XREAD", "COUNT", 1000, "BLOCK", BLOCK_MS, "STREAMS", self._key, last)
                backoff.reset()
                for entry_id, fields in streams[0][1] if streams else ():
                    last = entry_id
                    self._wake(pairs(fields)[b"to"].decode())
            except AgentSystemError:
                last = b""  # what has come meanwhile is looked for by those who wait
                self._begun.set()
                await asyncio.sleep(backoff.next(0.5))

    async def _ask(self, *command: Part) -> Any:
        [reply] = await self._connection.exchange([command], timeout_s=BLOCK_MS / 1000 + 3)
        if isinstance(reply, Exception):
            raise ServerRefused(f"Redis refused a read of {self._key}: {reply}")
        return reply

    def _wake(self, name: str) -> None:
        for waiting in self._expected.values() if name == EVERYBODY else (self._expected.get(name, ()),):
            for arrival in waiting:
                if not arrival.done():
                    arrival.set_result(None)
