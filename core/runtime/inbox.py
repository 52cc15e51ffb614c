"""An agent's inbox: reads the stream, verifies, and keeps what must not be acted on away from the graph.

An inbox has one lawful reader, the holder of its agent's lease, so it needs no consumer group: what has been dealt with
is deleted in the commit that dealt with it, and what is still in the stream has not been. A reader that starts, or
comes back, begins at the first entry.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from core.a2a_messaging import A2AMessage
from core.agents import check_told
from core.errors import NotPermitted, PeerError, ReplyTooLarge, ServerRefused, StaleMessage
from core.ports import Command, Connection
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import AgentKeys
from core.roles import ASKERS, Action, Address, check_permitted
from core.signing import Keys, ReplayWindow, Signed, check_fresh, check_plausible
from core.step import PutAside, Received

__all__ = ["READ_WITHIN_S", "SCRIPTS", "Inbox", "name_of"]

log = logging.getLogger(__name__)

#: Longest wait for a message. The connection's own time limit lies above it.
BLOCK_MS = 2000
#: A read that takes longer has no connection any more.
READ_WITHIN_S = BLOCK_MS / 1000 + 3
#: Messages read at once; with the items a message may have it bounds the work of one step.
MOST_MESSAGES = 16
#: How much of a rejected body is kept as evidence, and how many rejected messages.
EVIDENCE_BYTES, MOST_QUARANTINED = 4096, 1000
#: More than this is not read at once, so that nobody who can write to the stream can fill this process's memory. As
#: many messages as are read at once, of the size that our agents give them, fit.
READ_BYTES = 13 * 1024 * 1024
#: The first entry after ARGV[1], and of that no more than ARGV[2] bytes: the server keeps what nobody wants to hold.
ONE_ENTRY = """
local entry = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1)[1]
if not entry then return {} end
local fields, left = {}, tonumber(ARGV[2])
for i = 1, math.min(#entry[2], 64) do
    fields[i] = string.sub(entry[2][i], 1, left)
    left = left - #fields[i]
end
return {{entry[1], fields}}
"""
#: The highest id that the stream has given out; nothing where there is none, or a server that cannot say.
LAST_ID = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #info - 1, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
end
"""
#: All there are. They are run by their names, so that a user of the server may be allowed these and no others: who may
#: run any script can stop the server with one that never ends.
SCRIPTS = (ONE_ENTRY, LAST_ID)

Entry = tuple[bytes, list[bytes]]


class Inbox:
    """Reads and verifies what one agent is sent. What it has taken is acknowledged by `settle`'s commands."""

    def __init__(
        self,
        wire: Connection,
        me: Address,
        signing: Keys,
        keys: AgentKeys,
        clock: ServerClock,
        *,
        freshness_ms: int,
        limit_bytes: int,
    ) -> None:
        self._wire = wire
        self._me = me
        self._signing = signing
        self._keys = keys
        self._clock = clock
        self._freshness_ms = freshness_ms
        self._limit_bytes = limit_bytes
        self._last = b"0"
        self.windows: dict[str, ReplayWindow] = {}  #: by sender
        self._moved: set[str] = set()  # senders whose window changed since the last settle
        self._forget_due_ms = 0
        self._done: list[bytes] = []  # entries dealt with since the last settle
        self._bad: list[tuple[Entry, PeerError]] = []
        self.rejected: Counter[str] = Counter()
        self.counts: Counter[tuple[Address, str]] = Counter()  #: messages taken, by sender and action, but for clients'

    async def read(self) -> list[Entry]:
        """The next entries, after at most BLOCK_MS; none when nothing came. Raises TransportDown, ServerRefused."""
        if not self._wire.connected:
            await self._wire.connect()
        command: Command = (
            "XREAD", "COUNT", MOST_MESSAGES, "BLOCK", BLOCK_MS, "STREAMS", self._keys.inbox, self._last
        )  # fmt: skip
        try:
            [reply] = await self._wire.exchange([command], timeout_s=READ_WITHIN_S, most_bytes=READ_BYTES)
        except ReplyTooLarge:
            return await self._read_one()
        if isinstance(reply, Exception):
            raise ServerRefused(f"cannot read {self._keys.inbox}: {reply}")
        if not reply:
            await self._notice_new_beginning()
            return []
        return self._noted(reply[0][1])

    async def _read_one(self) -> list[Entry]:
        """The next entry; of one that is too large no more than shows that it is."""
        await self._wire.connect()
        most_bytes = self._limit_bytes + EVIDENCE_BYTES
        reply = await self._run_script(ONE_ENTRY, self._last, most_bytes)
        if isinstance(reply, Exception):
            raise ServerRefused(f"cannot read {self._keys.inbox} one by one: {reply}")
        return self._noted(reply)

    async def _notice_new_beginning(self) -> None:
        """A stream that was deleted begins anew, and while the server's clock is behind what it was, with ids below
        those that were read before; then it is read from its first entry."""
        last = await self._run_script(LAST_ID)
        if isinstance(last, bytes) and _place(last) < _place(self._last):
            self._last = b"0"

    async def _run_script(self, script: str, *arguments: bytes | int) -> Any:
        """The reply to one of SCRIPTS, run on the inbox; a refusal stands in its place."""
        by_name: Command = ("EVALSHA", name_of(script), 1, self._keys.inbox, *arguments)
        [reply] = await self._wire.exchange([by_name])
        if isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"):
            [_, reply] = await self._wire.exchange([("SCRIPT", "LOAD", script), by_name])
        return reply

    def _noted(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self._last = entries[-1][0]
        return entries

    def load(self, seen: Sequence[bytes]) -> None:
        """Starts anew from what is stored: replay windows as HGETALL gives them; the whole stream is unread."""
        self.rewind(seen)
        self._last = b"0"

    def rewind(self, seen: Sequence[bytes]) -> None:
        """Forgets what was verified since the last settle, as if it were not read yet; `seen` as for `load`."""
        self.windows = {
            sender.decode(): ReplayWindow.from_text(text) for sender, text in zip(seen[::2], seen[1::2], strict=True)
        }
        self._moved.clear()
        self._done.clear()
        self._bad.clear()

    def verify(self, entries: Sequence[Entry], incarnation: int) -> list[Received]:
        """The messages among `entries` that may be acted on. The others are rejected, each with its reason."""
        received = []
        for entry in entries:
            entry_id, fields = entry
            self._done.append(entry_id)
            try:
                signed = Signed.from_fields(fields or [])
                message = A2AMessage.opened(signed, self._signing, limit_bytes=self._limit_bytes)
                self._check(signed.sender, message, entry_id, incarnation)
            except PeerError as error:
                self.rejected[error.reason] += 1
                self._bad.append((entry, error))
                continue
            if message.metadata.audience not in (None, incarnation):
                self.rejected[StaleMessage.reason] += 1  # meant for this agent's predecessor: no fault of the sender
                continue
            if signed.sender.role not in ASKERS:
                self.counts[signed.sender, message.action] += 1
            received.append(Received(signed.sender, message, entry_id, signed))
        return received

    def reject(self, received: Received, error: PeerError) -> None:
        """Quarantines a message that was verified but cannot be dealt with."""
        self.rejected[error.reason] += 1
        body = received.message.encode()
        self._bad.append(((received.entry_id, [b"from", str(received.sender).encode(), b"body", body]), error))
        self._done.append(received.entry_id)

    def put_aside(self, item: PutAside) -> None:
        """Quarantines one item of a message; the message itself is dealt with."""
        self.rejected[item.error.reason] += 1
        fields = [b"from", str(item.received.sender).encode(), b"body", orjson.dumps(item.item)]
        self._bad.append(((item.received.entry_id, fields), item.error))

    def put_aside_record(self, key: str, name: bytes, record: bytes, error: PeerError) -> None:
        """Quarantines a stored record that is not what it should be; `key` is where it lay."""
        self.rejected[error.reason] += 1
        self._bad.append(((name, [b"from", key.encode(), b"body", record]), error))

    @property
    def unsettled(self) -> int:
        """Entries that are dealt with and wait for a commit to delete them."""
        return len(self._done)

    def settle(self, now_ms: int) -> list[Command]:
        """Commands that acknowledge all that was dealt with. Call once for each commit."""
        commands = self._forget_silent(now_ms)
        if self._done:
            commands.append(("XDEL", self._keys.inbox, *self._done))
        if self._moved:
            fields = [part for sender in self._moved for part in (sender, self.windows[sender].to_text())]
            commands.append(("HSET", self._keys.seen, *fields))
        for (entry_id, entry_fields), error in self._bad:
            evidence = {bytes(k): bytes(v) for k, v in zip(entry_fields[::2], entry_fields[1::2], strict=False)}
            log.warning(
                "message rejected: %s",
                error,
                extra={
                    "action": "message_rejected",
                    "reason": error.reason,
                    "entry": entry_id.decode(errors="replace"),
                },
            )
            commands.append(
                (
                    "XADD", self._keys.quarantine, "MAXLEN", "~", MOST_QUARANTINED, "*",
                    "reason", error.reason, "detail", str(error)[:200], "entry", entry_id,
                    "inbox", self._keys.inbox, "from", evidence.get(b"from", b"")[:200],
                    "kid", evidence.get(b"kid", b"")[:64], "body", evidence.get(b"body", b"")[:EVIDENCE_BYTES],
                )
            )  # fmt: skip
            commands.append(("HINCRBY", self._keys.header, f"rejected:{error.reason}", 1))
        self._done, self._moved, self._bad = [], set(), []
        return commands

    def _forget_silent(self, now_ms: int) -> list[Command]:
        """Now and then, drops the windows of senders that have been silent for so long that freshness alone refuses
        their old messages: clients come and go."""
        if now_ms < self._forget_due_ms:
            return []
        self._forget_due_ms = now_ms + self._freshness_ms
        horizon_ms = now_ms - 2 * self._freshness_ms
        silent = [sender for sender, window in self.windows.items() if window.last_ms < horizon_ms]
        for sender in silent:
            del self.windows[sender]
            self._moved.discard(sender)
        return [("HDEL", self._keys.seen, *silent)] if silent else []

    def _check(self, sender: Address, message: A2AMessage, entry_id: bytes, incarnation: int) -> None:
        metadata: Any = message.metadata
        if message.sender != sender.agent_id or message.recipient != self._me.agent_id:
            raise NotPermitted("sender or recipient inside the message are not those it was signed for")
        check_permitted(sender.role, self._me.role, message.action)
        check_told(sender.role, message.action, message.payload)
        if message.action == Action.BEAT:  # those have numbers of their own, and lie elsewhere
            raise NotPermitted("a heartbeat is no message for an inbox")
        # Ids only grow: after the server's clock was set back they lie in the future until it has caught up with them.
        arrived_ms = min(int(entry_id.partition(b"-")[0]), self._clock.now_ms())
        check_fresh(metadata.timestamp, arrived_ms, self._freshness_ms)
        name = str(sender)
        window = self.windows.get(name, ReplayWindow())
        check_plausible(metadata.incarnation, window.incarnation, max(incarnation, self._clock.now_ms()))
        self.windows[name] = window.take(metadata.incarnation, metadata.sequence_number, metadata.timestamp)
        self._moved.add(name)


def name_of(script: str) -> str:
    """By which a server that has loaded it knows it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _place(entry_id: bytes) -> tuple[int, int]:
    """By which ids are ordered."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number or 0)
