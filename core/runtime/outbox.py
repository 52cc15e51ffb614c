"""Turns the messages of a step into signed ones, in the order of its recipients' sequence numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from core.a2a_messaging import MAX_ITEMS, VERSION, MessageType, as_list, encode_body
from core.ports import Command
from core.redis_backend.keys import inbox_of
from core.roles import ASKERS, Action, Address, Role
from core.run_keys import AttemptKey, RunKey
from core.signing import KeyRing, Signed
from core.step import TYPE_OF_ACTION, Keyed, Sending, Step
from core.trace_context import TraceContext

__all__ = ["Outbox", "chunks"]

#: Approximate limit of the bytes of items in one message.
MAX_BYTES = 512 * 1024
#: A reply stream is bounded in entries and, by the size of the newest, in bytes. A client that stops reading, or asks
#: for large results repeatedly, finds them in the records instead.
REPLIES_KEPT, REPLIES_BYTES, REPLIES_TTL_S = 20_000, 64 * 1024 * 1024, 3600
#: A reply stream gets its whole time to live anew with the first reply after so many ms, not with each.
EXTENDED_AFTER_MS = 60_000
CLIENTS = Address(Role.CLIENT, "*")


class Outbox:
    """Signs and numbers one agent's messages."""

    def __init__(self, chain: tuple[Address, ...], signing: KeyRing) -> None:
        self._chain = chain
        self._me = chain[-1]
        self._signing = signing
        self.sent: dict[Address, int] = {}  #: last sequence number used, by recipient
        self._extended_ms: dict[str, int] = {}  # reply stream -> when its time to live was set last, oldest first
        self.incarnation = 0
        self.counts: Counter[tuple[Address, str]] = Counter()  #: by recipient and action, without clients

    def commands(self, step: Step, now_ms: int) -> list[Command]:
        """One XADD for each message of `step`. It uses up sequence numbers: send these commands until they are
        committed."""
        commands: list[Command] = []
        for sending in dict.fromkeys((*step.sends, *step.extras)):
            key = inbox_of(sending.recipient, self._chain)
            to_client = sending.recipient.role in ASKERS
            extra = step.extras.get(sending, {})
            items_to_send = [
                self._with_key(item, sending.recipient) if type(item) is Keyed else item
                for item in step.sends.get(sending, ())
            ]
            for items in chunks(items_to_send):
                signed = self._message(sending, items, extra, now_ms, step.trace)
                kept = min(REPLIES_KEPT, max(1, REPLIES_BYTES // len(signed.body)))
                bound = ("MAXLEN", "~", kept) if to_client else ()
                commands.append(("XADD", key, *bound, "*", *signed.fields()))
            if to_client:
                commands += self._extended(key, now_ms)
        return commands

    def _extended(self, replies: str, now_ms: int) -> list[Command]:
        """The command that sets the time to live of a reply stream, unless it was set a short time ago."""
        known = self._extended_ms
        while known and not 0 <= now_ms - known[oldest := next(iter(known))] < EXTENDED_AFTER_MS:
            del known[oldest]
        if replies in known:
            return []
        known[replies] = now_ms
        return [("EXPIRE", replies, REPLIES_TTL_S)]

    def _with_key(self, item: Keyed, recipient: Address) -> bytes:
        """An item with the key of what the run of its task tells, wrapped for `recipient`; without one if this agent
        cannot read that which came with the task."""
        task = item.task
        keys: Sequence[RunKey | AttemptKey]
        if recipient.role is Role.WORKER:
            run_keys = itertools.starmap(RunKey, self._signing.unwrapped(task.run_key or ""))
            keys = [key.of_attempt(task.attempt) for key in run_keys]
        else:
            keys = self._signing.run_keys(task.task_id, Address.parse(task.owner) if task.owner else None)
        if recipient.role not in ASKERS:  # a reader may find what was signed before the secret was changed
            keys = keys[:1]
        return item[:-1] + b',"run_key":"%b"}' % self._signing.wrapped(keys, recipient).encode() if keys else item

    def request_id(self, recipient: Address, number: int) -> str:
        """The id of the message with that sequence number; its answer names it as `parent_request_id`."""
        return f"{self._me.agent_id}-{self.incarnation}-{recipient.agent_id}-{number}"

    def beat(self, parent: Address, payload: Mapping[str, Any], number: int, now_ms: int) -> bytes:
        """A heartbeat for `parent`, packed for a hash field. Its number counts beats, separately from messages."""
        return self._sign(parent, MessageType.HEARTBEAT, payload, number, now_ms, None, None, None).pack()

    def _message(
        self, sending: Sending, items: Sequence[bytes], extra: Mapping[str, Any], now_ms: int,
        trace: TraceContext | None,
    ) -> Signed:  # fmt: skip
        to_client = sending.recipient.role in ASKERS
        # Clients come and go. They share one sequence, which each sees with gaps, so that none needs to be remembered.
        counter = CLIENTS if to_client else sending.recipient
        number = self.sent[counter] = self.sent.get(counter, 0) + 1
        payload = {"action": sending.action, **extra, "tasks": as_list(items)}
        if not to_client:
            self.counts[sending.recipient, sending.action.value] += 1
        kind = TYPE_OF_ACTION[sending.action]
        if sending.action is Action.TASK_ACCEPTED and extra.get("refused"):
            kind = MessageType.ERROR
        parent, audience = sending.parent_request_id, sending.audience
        return self._sign(sending.recipient, kind, payload, number, now_ms, parent, audience, trace)

    def _sign(
        self,
        recipient: Address,
        kind: MessageType,
        payload: Mapping[str, Any],
        number: int,
        now_ms: int,
        parent_request_id: str | None,
        audience: int | None,
        trace: TraceContext | None,
    ) -> Signed:
        me = self._me.agent_id
        metadata = {
            "origin": me,
            "version": VERSION,
            "timestamp": now_ms,
            "request_id": self.request_id(recipient, number),
            "parent_request_id": parent_request_id,
            "sequence_number": number,
            "incarnation": self.incarnation,
            "audience": audience,
        }
        if trace is not None:
            metadata |= to_builtins(trace)
        return self._signing.sign(encode_body(kind, me, recipient.agent_id, payload, metadata), recipient)


def chunks(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """`items` in order, in chunks so that no message exceeds its limits; one empty chunk when there are none."""
    start = size = 0
    for index, item in enumerate(items):
        if index > start and (index - start == MAX_ITEMS or size + len(item) > MAX_BYTES):
            yield items[start:index]
            start, size = index, 0
        size += len(item)
    yield items[start:]
