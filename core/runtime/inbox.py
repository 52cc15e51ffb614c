"""An agent's inbox: reads the stream, verifies it, and keeps messages that must not be acted on away from the graph.

An inbox has one lawful reader, the holder of its agent's lease, so it needs no consumer group. An entry is deleted in
the commit that dealt with it, so whatever is in the stream has not been dealt with. A reader that starts, or comes
back, begins at the first entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from core.a2a_messaging import A2AMessage
from core.errors import (
    MalformedMessage,
    MessageTooLarge,
    NotPermitted,
    PeerError,
    ReplyTooLarge,
    ServerRefused,
    StaleMessage,
    StateConflict,
)
from core.ports import Command, Connection
from core.redis_backend.bounded_reads import FEW_ENTRIES, LAST_ID, name_of
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import AgentKeys
from core.roles import ASKERS, Action, Address, check_permitted
from core.runtime.rejection_log import RejectionLog
from core.server_info import is_other_type, of_another_type
from core.signing import KeyRing, ReplayWindow, Signed, check_fresh, check_plausible
from core.status_reports import Room, status_report
from core.step import PutAside, Received
from core.stored import pairs

__all__ = ["READ_WITHIN_S", "Inbox"]

#: Longest wait for a message; the time limit of the connection is longer.
BLOCK_MS = 2000
#: A read that takes longer has lost its connection.
READ_WITHIN_S = BLOCK_MS / 1000 + 3
#: How long after an id's own time lower ones can still come unnoticed: the server's clock is read once per heartbeat.
CLOCK_READ_WITHIN_MS = 10_000
#: Messages taken at once. Together with the items of a message, this bounds the work of one step.
MAX_MESSAGES = 16
#: Entries read at once while most of them are not valid messages.
MAX_ENTRIES = 512
#: While this many entries wait for a commit to delete them, nothing more is read.
MAX_UNSETTLED = 4096
#: Evidence: bytes kept of a rejected body, messages kept per commit, and messages kept in all.
EVIDENCE_BYTES, EVIDENCE_AT_ONCE, MAX_QUARANTINED = 4096, 200, 1000
#: Bytes read at once, so that nobody who can write to the stream can fill this process's memory. MAX_MESSAGES messages
#: of the size that our agents send fit.
READ_BYTES = 13 * 1024 * 1024
#: The id of an entry, and the message in it, whose signature is valid.
Entry = tuple[bytes, Signed]


@dataclass(slots=True)
class Dealt:
    """The entries that have been dealt with since the last settle."""

    entries: list[bytes] = field(default_factory=list)  #: their ids
    rejected: Counter[str] = field(default_factory=Counter)  #: number of rejected ones, by reason
    evidence: list[list[bytes | str]] = field(default_factory=list)  #: evidence of the first ones


class Inbox:
    """Reads and verifies the messages for one agent. The commands of `settle` acknowledge those that it has taken."""

    def __init__(
        self,
        wire: Connection,
        me: Address,
        signing: KeyRing,
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
        self._at_once = MAX_MESSAGES  # how many entries the next read asks for
        self._ahead: list[Entry] = []  # read, and not given out yet
        self.windows: dict[str, ReplayWindow] = {}  #: by sender
        self._moved: set[str] = set()  # senders whose window changed since the last settle
        self._forget_due_ms = 0
        self._dropped = Dealt()  # when reading: no valid messages in any case
        self._done = Dealt()  # later, in `verify`
        self._log = RejectionLog("message", "message_rejected")
        self.rejected: Counter[str] = Counter()
        self.counts: Counter[tuple[Address, str]] = Counter()  #: taken, by sender and action, without clients

    async def read(self) -> list[Entry]:
        """The next messages with a valid signature, after at most BLOCK_MS; empty when nothing came, or everything was
        rejected. Raises TransportDown; ServerRefused; StateConflict: the stored value is not a stream."""
        if not self._ahead:
            entries = await self._next_entries()
            self._ahead = [entry for raw in entries if (entry := self._opened(*raw))]
            flooded = len(self._ahead) < len(entries) / 2
            self._at_once = min(MAX_ENTRIES, 2 * self._at_once) if flooded else MAX_MESSAGES
        taken, self._ahead = self._ahead[:MAX_MESSAGES], self._ahead[MAX_MESSAGES:]
        return taken

    async def close(self) -> None:
        """Closes its connection."""
        await self._wire.close()

    async def _next_entries(self) -> list[Any]:
        """The raw entries, as XREAD and FEW_ENTRIES return them."""
        if not self._wire.connected:
            await self._wire.connect()
        command: Command = (
            "XREAD", "COUNT", self._at_once, "BLOCK", BLOCK_MS, "STREAMS", self._keys.inbox, self._last
        )  # fmt: skip
        try:
            [reply] = await self._wire.exchange([command], timeout_s=READ_WITHIN_S, max_bytes=READ_BYTES)
        except ReplyTooLarge:
            return await self._few_entries()
        if isinstance(reply, Exception):
            if is_other_type(str(reply)):
                raise StateConflict(of_another_type(self._keys.inbox))
            raise ServerRefused(f"cannot read {self._keys.inbox}: {reply}")
        if not reply:
            await self._notice_new_beginning()
            return []
        return self._noted(reply[0][1])

    async def _few_entries(self) -> list[Any]:
        """As many of the next entries as there is room for; only the beginning of an oversized one."""
        await self._wire.connect()
        limits = (self._at_once, READ_BYTES, self._limit_bytes, EVIDENCE_BYTES)
        reply = await self._run_script(FEW_ENTRIES, self._last, *limits)
        if isinstance(reply, Exception):
            raise ServerRefused(f"cannot read {self._keys.inbox} in parts: {reply}")
        return self._noted(reply)

    async def _notice_new_beginning(self) -> None:
        """Reads the stream from its start if it was created again with lower ids than those already read, as happens
        when the server's clock went back. Once that clock is ahead of them, new ids are higher."""
        if _place(self._last)[0] < self._clock.now_ms() - CLOCK_READ_WITHIN_MS:
            return
        last = await self._run_script(LAST_ID)
        if isinstance(last, bytes) and _place(last) < _place(self._last):
            self._last = b"0"

    async def _run_script(self, script: str, *arguments: bytes | int) -> Any:
        """The reply to one of SCRIPTS, run on the inbox; an error takes its place if the server refused."""
        by_name: Command = ("EVALSHA", name_of(script), 1, self._keys.inbox, *arguments)
        [reply] = await self._wire.exchange([by_name])
        if isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"):
            [_, reply] = await self._wire.exchange([("SCRIPT", "LOAD", script), by_name])
        return reply

    def _noted(self, entries: list[Any]) -> list[Any]:
        if entries:
            self._last = entries[-1][0]
        return entries

    def _opened(self, entry_id: bytes, fields: list[bytes] | None, cut: int = 0) -> Entry | None:
        """The message in an entry; None: it is rejected. The most expensive check comes last."""
        try:
            signed = Signed.from_fields(fields or [])
            if cut or len(signed.body) > self._limit_bytes:
                raise MessageTooLarge(f"over the limit of {self._limit_bytes} bytes")
            self._signing.verify(signed)
        except PeerError as error:
            self._dropped.entries.append(entry_id)
            self._put_aside(self._dropped, entry_id, fields or [], error)
            return None
        return entry_id, signed

    def load(self, seen: Sequence[bytes]) -> None:
        """Starts from what is stored: replay windows as in a reply to HGETALL, and the whole stream as unread."""
        self.rewind(seen)
        self._last = b"0"
        self._ahead, self._dropped = [], Dealt()

    def rewind(self, seen: Sequence[bytes]) -> None:
        """Forgets what was verified since the last settle, as if it had not been read; `seen` as for `load`."""
        self.windows = {}
        now_ms = self._clock.now_ms()
        for sender, text in zip(seen[::2], seen[1::2], strict=True):
            # A window that somebody else wrote is dropped: freshness still protects.
            with suppress(ValueError, MalformedMessage):
                window = ReplayWindow.from_text(text)
                check_plausible(window.incarnation, 0, now_ms)
                self.windows[str(Address.parse(sender))] = window
        self._moved.clear()
        self._done = Dealt()

    def verify(self, entries: Sequence[Entry], incarnation: int) -> list[Received]:
        """The messages among `entries` that may be acted on. The others are rejected, each with its reason."""
        received = []
        for entry_id, signed in entries:
            self._done.entries.append(entry_id)
            try:
                message = A2AMessage.decode(signed.body, limit_bytes=self._limit_bytes)
                status = self._checked(signed.sender, message, entry_id, incarnation)
            except PeerError as error:
                self._put_aside(self._done, entry_id, signed.fields(), error)
                continue
            if message.metadata.audience not in (None, incarnation):
                self.rejected[StaleMessage.reason] += 1  # for this agent's predecessor: no fault of the sender
                continue
            if signed.sender.role not in ASKERS:
                self.counts[signed.sender, message.action] += 1
            received.append(Received(signed.sender, message, entry_id, signed, status))
        return received

    def reject(self, received: Received, error: PeerError) -> None:
        """Quarantines a message that was verified but cannot be dealt with."""
        self._done.entries.append(received.entry_id)
        fields = [b"from", str(received.sender).encode(), b"body", received.message.encode()]
        self._put_aside(self._done, received.entry_id, fields, error)

    def _put_aside(self, dealt: Dealt, entry_id: bytes, fields: Sequence[bytes], error: PeerError) -> None:
        """Counts a message as rejected, and keeps its beginning if there is room."""
        self.rejected[error.reason] += 1
        dealt.rejected[error.reason] += 1
        if len(dealt.evidence) < EVIDENCE_AT_ONCE:
            named = pairs(fields)
            self._log.note(error.reason, named.get(b"from", b""), entry_id)
            dealt.evidence.append([
                "reason", error.reason, "detail", str(error)[:200], "entry", entry_id, "inbox", self._keys.inbox,
                "from", named.get(b"from", b"")[:200], "kid", named.get(b"kid", b"")[:64],
                "body", named.get(b"body", b"")[:EVIDENCE_BYTES],
            ])  # fmt: skip

    def put_aside(self, item: PutAside) -> None:
        """Quarantines one item of a message; the message itself is dealt with."""
        fields = [b"from", str(item.received.sender).encode(), b"body", bytes(item.item)]
        self._put_aside(self._done, item.received.entry_id, fields, item.error)

    def put_aside_record(self, key: str, name: bytes, record: bytes, error: PeerError) -> None:
        """Quarantines a stored record that is not what it should be; `key` is where it was stored."""
        self._put_aside(self._dropped, name, [b"from", key.encode(), b"body", record], error)

    @property
    def unsettled(self) -> int:
        """Number of entries that are dealt with and wait for a commit to delete them."""
        return len(self._done.entries) + len(self._dropped.entries)

    @property
    def full(self) -> bool:
        """Whether a commit has to delete rejected entries before more are read."""
        return len(self._dropped.entries) >= MAX_UNSETTLED

    def settle(self, now_ms: int) -> list[Command]:
        """The commands that acknowledge everything that was dealt with. Call it once for each commit."""
        commands = self._forget_silent(now_ms)
        dealt = (self._dropped, self._done)
        if entries := [entry_id for group in dealt for entry_id in group.entries]:
            commands.append(("XDEL", self._keys.inbox, *entries))
        if self._moved:
            fields = [part for sender in self._moved for part in (sender, self.windows[sender].to_text())]
            commands.append(("HSET", self._keys.seen, *fields))
        for group in dealt:
            for evidence in group.evidence:
                commands.append(("XADD", self._keys.quarantine, "MAXLEN", "~", MAX_QUARANTINED, "*", *evidence))
        for reason, count in (self._dropped.rejected + self._done.rejected).items():
            commands.append(("HINCRBY", self._keys.header, f"rejected:{reason}", count))
        self._dropped, self._done, self._moved = Dealt(), Dealt(), set()
        return commands

    def _forget_silent(self, now_ms: int) -> list[Command]:
        """Occasionally drops the windows of senders that have been silent so long that freshness alone refuses their
        old messages, since clients come and go."""
        if now_ms < self._forget_due_ms:
            return []
        self._forget_due_ms = now_ms + self._freshness_ms
        horizon_ms = now_ms - 2 * self._freshness_ms
        silent = [sender for sender, window in self.windows.items() if window.last_ms < horizon_ms]
        for sender in silent:
            del self.windows[sender]
            self._moved.discard(sender)
        return [("HDEL", self._keys.seen, *silent)] if silent else []

    def _checked(self, sender: Address, message: A2AMessage, entry_id: bytes, incarnation: int) -> Room | None:
        """What a child reports about itself, if the message does. Raises PeerError: it is not to be acted on."""
        metadata: Any = message.metadata
        if message.sender != sender.agent_id or message.recipient != self._me.agent_id:
            raise NotPermitted("sender or recipient in the message are not those that it was signed for")
        check_permitted(sender.role, self._me.role, message.action)
        status = status_report(sender.role, message.action, message.payload)
        if message.action == Action.BEAT:  # heartbeats have numbers of their own, and are stored elsewhere
            raise NotPermitted("a heartbeat does not belong in an inbox")
        # Ids only grow: after the server's clock was set back, they lie in the future until it has caught up.
        arrived_ms = min(int(entry_id.partition(b"-")[0]), self._clock.now_ms())
        check_fresh(metadata.timestamp, arrived_ms, self._freshness_ms)
        name = str(sender)
        window = self.windows.get(name, ReplayWindow())
        check_plausible(metadata.incarnation, window.incarnation, max(incarnation, self._clock.now_ms()))
        self.windows[name] = window.take(metadata.incarnation, metadata.sequence_number, metadata.timestamp)
        self._moved.add(name)
        return status


def _place(entry_id: bytes) -> tuple[int, int]:
    """The key by which ids are ordered."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number or 0)
