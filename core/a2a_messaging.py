"""A2A messages: the envelope, its types, its causal metadata, and its bytes. No I/O.

A message is one JSON body that is encoded once; the bytes that are signed are the bytes that travel (`signing`). One
message carries all that one step has to say to one recipient about one action: `payload["tasks"]` is a list. The
form with a single `payload["task"]` is understood as well.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Self

import msgspec
import orjson
from msgspec import Raw, Struct, field
from msgspec.structs import asdict

from core.errors import BadTask, MalformedMessage, MessageTooLarge
from core.signing import KeyRing, Signed
from core.tasks import Count, in_words

__all__ = [
    "MAX_ITEMS",
    "MESSAGE_LIMIT_BYTES",
    "VERSION",
    "A2AMessage",
    "MessageType",
    "Metadata",
    "as_list",
    "encode_body",
]

VERSION = "v1"
#: Largest body, in bytes. A sender splits larger messages; a larger body is refused before it is parsed.
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
#: Most items in one message. A sender splits more into several messages; a message with more is refused.
MAX_ITEMS = 128


class MessageType(StrEnum):
    REQUEST = "request"
    RESPONSE = "response"
    HEARTBEAT = "heartbeat"
    EVENT = "event"
    ACK = "ack"
    ERROR = "error"


class Metadata(Struct, frozen=True, kw_only=True, gc=False):
    """The origin of a message, and its place in the exchange."""

    origin: str  #: the agent that began this exchange
    version: str = VERSION
    timestamp: Count  #: when it was signed, ms, on the server's clock
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent_request_id: str | None = None  #: the message this one answers
    sequence_number: Count  #: counts what this sender has sent to this recipient, from 1
    incarnation: Count  #: the number of the sender's start; sequence numbers begin at 1 with each
    audience: Count | None = None  #: the incarnation of the recipient that it is meant for; None: any
    traceparent: str | None = None  #: the trace that it belongs to as a whole (W3C Trace Context); None: none
    tracestate: str | None = None


class A2AMessage(Struct, frozen=True, kw_only=True):
    """A message between two agents. `signature` is the HMAC-SHA256 as hex, once it is signed or was verified.

    After decoding, `payload` has everything but the tasks, which are kept as the JSON that they came as."""

    type: MessageType
    sender: str
    recipient: str
    payload: dict[str, Any]
    metadata: Metadata
    signature: str | None = None
    tasks: list[Raw] = []  #: the items of `payload["tasks"]`, or the one of `payload["task"]`

    @property
    def action(self) -> str:
        """The action that it is about, or the empty string."""
        action = self.payload.get("action", "")
        return action if isinstance(action, str) else ""

    def encode(self) -> bytes:
        """The body: the exact bytes to sign and send. Raises BadTask when the payload is no JSON."""
        payload = {**self.payload, "tasks": as_list(map(bytes, self.tasks))} if self.tasks else self.payload
        metadata = asdict(self.metadata)
        for name in ("traceparent", "tracestate"):
            if metadata[name] is None:
                del metadata[name]
        return encode_body(self.type, self.sender, self.recipient, payload, metadata)

    @classmethod
    def opened(cls, signed: Signed, keys: KeyRing, *, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> Self:
        """The message that was signed. An oversized body is refused before any work on its signature, and a wrong
        signature before the body is parsed. Raises as `KeyRing.verify` and `decode`."""
        _check_length(signed.body, limit_bytes)
        keys.verify(signed)
        return cls.decode(signed.body, limit_bytes=limit_bytes)

    @classmethod
    def decode(cls, body: bytes, *, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> Self:
        """The message in `body`. Verify the signature first.

        Raises MessageTooLarge before anything is parsed; MalformedMessage for anything that is not a message of a
        version that we speak: NaN, bad UTF-8, a name that stands twice in one object, or nesting beyond 254, which
        could not be encoded again. The tasks are checked where each of them is decoded. Unknown fields are ignored, so
        that a newer release can talk to an older one.
        """
        _check_length(body, limit_bytes)
        envelope, payload, items = _parsed(body)
        if envelope.metadata.version.partition(".")[0] != VERSION:
            raise MalformedMessage(f"version {envelope.metadata.version[:20]!r}; this release speaks {VERSION}")
        if len(items) > MAX_ITEMS:
            raise MessageTooLarge(f"{len(items)} items in one message, where a sender puts {MAX_ITEMS} at most")
        return cls(
            type=envelope.type,
            sender=envelope.sender,
            recipient=envelope.recipient,
            payload=payload,
            metadata=envelope.metadata,
            tasks=items,
        )


class _Envelope(Struct, frozen=True):
    """A body whose payload has not been examined yet."""

    type: MessageType
    sender: str
    recipient: str
    payload: dict[str, Raw]
    metadata: Metadata


_decode = msgspec.json.Decoder(_Envelope).decode
_items = msgspec.json.Decoder(list[Raw]).decode


def _check_length(body: bytes, limit_bytes: int) -> None:
    if len(body) > limit_bytes:
        raise MessageTooLarge(f"over the limit of {limit_bytes} bytes")


def _parsed(body: bytes) -> tuple[_Envelope, dict[str, Any], list[Raw]]:
    """The envelope of a body, its payload, and its tasks. Raises MalformedMessage.

    The body is parsed as a whole although the tasks are kept as they came, so that invalid JSON anywhere in it goes no
    further. The parser accepts a name twice and keeps the last value, where another reader might keep the first. A body
    that is the same when it is encoded again has no such name. This holds for nearly every body, and costs a third of
    the parsing. A slower parser examines the others.
    """
    try:
        value = orjson.loads(body)
        if orjson.dumps(value) != body:
            json.loads(body, object_pairs_hook=_each_name_once)
        envelope = _decode(body)
        items = _items(envelope.payload.get("tasks", b"[]"))
        if "tasks" not in envelope.payload and "task" in envelope.payload:
            items = [envelope.payload["task"]]
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise MalformedMessage(f"{where or 'payload.tasks'}: {what[:200]}") from None
    except (ValueError, TypeError) as error:
        raise MalformedMessage(f"no JSON: {str(error)[:200]}") from None
    payload = {name: part for name, part in value["payload"].items() if name not in ("tasks", "task")}
    return envelope, payload, items


def _each_name_once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({name for name, _ in pairs}):
        raise ValueError("an object has the same name twice")


def as_list(items: Iterable[bytes]) -> orjson.Fragment:
    """A JSON list of items that are JSON already."""
    return orjson.Fragment(b"[" + b",".join(items) + b"]")


def encode_body(
    kind: MessageType, sender: str, recipient: str, payload: Mapping[str, Any], metadata: Mapping[str, Any]
) -> bytes:
    """The body of a message, from its parts; see A2AMessage.encode."""
    try:
        return orjson.dumps(
            {"type": kind, "sender": sender, "recipient": recipient, "payload": payload, "metadata": metadata}
        )
    except TypeError as error:
        raise BadTask(f"a message payload is not JSON: {error}") from None
