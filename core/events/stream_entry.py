"""An event as an entry of an agent stream: one typed JSON body, with the signature of who wrote it.

event    the envelope as JSON, with the data in it
sig      KEYID:HMAC-SHA256 over the body, with the key of this stream
session  the event's session, where the server sees it; left out when it has none
for      the only audience that the entry is for: a dead letter that is replayed; left out otherwise
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import msgspec
import orjson

from core.agent_event import EVENT_LIMIT_BYTES, SCHEMA_VERSION, AgentEvent
from core.errors import BadEvent, BadSignature, MalformedMessage, UnknownKey
from core.ports import Part
from core.stored import pairs

__all__ = ["Entry", "EntryFormat", "ReceivedEvent", "session_of"]

#: The id of an entry and its fields, names and values alternately; None: the entry was deleted.
Entry = tuple[bytes, Sequence[bytes] | None]


class ReceivedEvent(dict[str, Any]):
    """An event as a consumer gets it: what its data holds, by name, and beside that `type` (text), `timestamp`
    (seconds since 1970, UTC), `session_id` if it has one, and `_msg_id`.

    `event` is the whole envelope, where data cannot hide behind these names."""

    __slots__ = ("attempt", "event", "fields", "group", "msg_id", "only_for")

    def __init__(self, msg_id: str, event: AgentEvent, fields: Sequence[bytes], only_for: str | None) -> None:
        super().__init__(event.data)
        if event.session_id is not None:
            self["session_id"] = event.session_id
        self["type"], self["timestamp"], self["_msg_id"] = event.type.value, event.timestamp.timestamp(), msg_id
        self.event = event
        self.msg_id = msg_id
        self.fields = fields  #: of the entry, as it lies in the stream
        self.only_for = only_for  #: the only audience that it is for; None: it is for all
        self.group: str | None = None  #: the consumer group that it has to be acknowledged in; None: there is none
        self.attempt = 1  #: how often it has been handed to a handler, with this time

    @property
    def session(self) -> str:
        """Empty: it has none."""
        return self.event.session_id or ""


class EntryFormat:
    """Writes and reads the entries of one stream. `keys` are by id: the current one first, then those also accepted."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = {key_id.encode(): key for key_id, key in keys.items()}
        self._current, self._key = next(iter(self._keys.items()))

    def fields(self, event: AgentEvent) -> list[Part]:
        """The fields, names and values alternately. Raises BadEvent: it would not come back as it is."""
        event.check()
        if not 0 <= event.sequence < 2**63:
            raise BadEvent("an event's sequence is no whole number from 0")
        body = _encode(event)
        if len(body) > EVENT_LIMIT_BYTES:
            raise BadEvent(
                f"the event has {len(body)} bytes as JSON, over the limit of {EVENT_LIMIT_BYTES}."
                " Store its data elsewhere and pass a reference."
            )
        fields: list[Part] = [b"event", body, b"sig", self._current + b":" + _mac(self._key, body)]
        if event.session_id is not None:
            fields += [b"session", event.session_id]
        return fields

    def event(self, msg_id: str, fields: Sequence[bytes]) -> ReceivedEvent:
        """The event of an entry. Raises BadSignature, UnknownKey, MalformedMessage, BadEvent: nobody who has the
        stream's key has written it, or it is of a version that is not understood here."""
        named = pairs(fields)
        body = named.get(b"event")
        if body is None or b"sig" not in named or len(body) > EVENT_LIMIT_BYTES:
            raise MalformedMessage("an entry needs the fields event, of at most 256 KiB, and sig")
        self._verify(body, named[b"sig"])
        event = _decoded(body)
        if named.get(b"session", b"") != (event.session_id or "").encode():
            raise BadSignature("the session of an entry is not that of its event")
        only_for = named.get(b"for")
        return ReceivedEvent(msg_id, event, fields, None if only_for is None else only_for.decode(errors="replace"))

    def _verify(self, body: bytes, signature: bytes) -> None:
        key_id, _, mac = signature.partition(b":")
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(f"key id {key_id[:16]!r}")
        if not hmac.compare_digest(mac, _mac(key, body)):
            raise BadSignature("of an event")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AgentEvent).decode


def _decoded(body: bytes) -> AgentEvent:
    """The event of a body that was signed, and so checked by who has published it. Raises BadEvent."""
    try:
        event = _decode(body)
    except msgspec.DecodeError:  # a type, or a field, of another version
        return AgentEvent.from_dict(_object_of(body))
    if event.schema_version == SCHEMA_VERSION and event.timestamp.tzinfo is UTC and 0 <= event.sequence < 2**63:
        return event
    return AgentEvent.from_dict(_object_of(body))


def _object_of(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise BadEvent("this is no event: it is no JSON object")
    return fields


def session_of(fields: Sequence[bytes]) -> str:
    """The session of an entry, as the server sees it; empty: it has none."""
    return pairs(fields).get(b"session", b"").decode(errors="replace")


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256).hex().encode()
