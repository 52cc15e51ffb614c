"""A2A messages: the envelope, its types, its causal metadata, and its bytes. No I/O.

A message is one JSON body that is encoded once; the bytes that are signed are the bytes that travel (`signing`). One
message carries all that one step has to say to one recipient about one action: `payload["tasks"]` is a list. The
form with a single `payload["task"]` is understood as well.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import BadTask, MalformedMessage, MessageTooLarge
from core.signing import Keys, Signed

__all__ = [
    "MESSAGE_LIMIT_BYTES",
    "MOST_ITEMS",
    "VERSION",
    "A2AMessage",
    "MessageType",
    "Metadata",
]

VERSION = "v1"
#: Largest body. A sender splits what it has to say; a larger message is refused before it is parsed.
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
#: Most items in one message. A sender makes several messages of more; one that has more is refused.
MOST_ITEMS = 128

#: An integer and nothing that could be taken for one, small enough for every arithmetic that is done with it.
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class MessageType(StrEnum):
    REQUEST = "request"
    RESPONSE = "response"
    HEARTBEAT = "heartbeat"
    EVENT = "event"
    ACK = "ack"
    ERROR = "error"


class Metadata(BaseModel):
    """Where a message comes from and what it follows from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    origin: str  #: the agent that began this exchange
    version: str = VERSION
    timestamp: Count  #: when it was signed, ms, on the server's clock
    request_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    parent_request_id: str | None = None  #: the message this one answers
    sequence_number: Count  #: counts what this sender has sent to this recipient, from 1
    incarnation: Count  #: the sender's start; sequence numbers count anew with each
    audience: Count | None = None  #: the recipient's incarnation it is meant for; None: whichever lives


class A2AMessage(BaseModel):
    """A message between two agents. `signature` is the HMAC-SHA256 as hex, once it is signed or was verified."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: MessageType
    sender: str
    recipient: str
    payload: dict[str, Any]
    metadata: Metadata
    signature: str | None = None

    @property
    def action(self) -> str:
        """What it is about, or the empty string."""
        action = self.payload.get("action", "")
        return action if isinstance(action, str) else ""

    @property
    def tasks(self) -> list[Any]:
        """The items of `payload["tasks"]`, or the one of `payload["task"]`."""
        items: list[Any] | None = self.payload.get("tasks")
        if items is None:
            return [self.payload["task"]] if "task" in self.payload else []
        return items

    def encode(self) -> bytes:
        """The body: the exact bytes to sign and send. Raises BadTask when the payload is no JSON."""
        return encode_body(self.type, self.sender, self.recipient, self.payload, self.metadata.__dict__)

    @classmethod
    def opened(cls, signed: Signed, keys: Keys, *, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> Self:
        """The message that was signed. What is too large is refused before any work on its signature, and what is not
        rightly signed before its inside is looked at. Raises as `Keys.verify` and `decode`."""
        _check_length(signed.body, limit_bytes)
        keys.verify(signed)
        return cls.decode(signed.body, limit_bytes=limit_bytes)

    @classmethod
    def decode(cls, body: bytes, *, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> Self:
        """The message in `body`. Verify the signature first.

        Raises MessageTooLarge, before anything is parsed; MalformedMessage for all that is not a message of a
        version we speak: NaN, bad UTF-8, a name that stands twice in one object, nesting that could not be said again
        (beyond 254). Unknown fields are ignored, so that a newer release can talk to an older one.
        """
        _check_length(body, limit_bytes)
        try:
            message = cls.model_validate(_parsed(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise MalformedMessage(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if message.metadata.version.partition(".")[0] != VERSION:
            raise MalformedMessage(f"version {message.metadata.version[:20]!r}; this release speaks {VERSION}")
        items = message.payload.get("tasks", [])
        if not isinstance(items, list):
            raise MalformedMessage("payload.tasks is not a list")
        if len(items) > MOST_ITEMS:
            raise MessageTooLarge(f"{len(items)} items in one message, where a sender puts {MOST_ITEMS} at most")
        return message


def _check_length(body: bytes, limit_bytes: int) -> None:
    if len(body) > limit_bytes:
        raise MessageTooLarge(f"over the limit of {limit_bytes} bytes")


def _parsed(body: bytes) -> Any:
    """The value in a body. Raises MalformedMessage.

    The parser lets a name stand twice and keeps the last, where another reader might keep the first. A body that comes
    out the same when it is encoded again has no such name; that is nearly every one, at a third of the cost of the
    parsing. The others are looked at by a slower parser.
    """
    try:
        value = orjson.loads(body)
        if orjson.dumps(value) != body:
            json.loads(body, object_pairs_hook=_each_name_once)
    except (ValueError, TypeError) as error:
        raise MalformedMessage(f"no JSON: {str(error)[:200]}") from None
    return value


def _each_name_once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({name for name, _ in pairs}):
        raise ValueError("a name stands twice in one object")


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
