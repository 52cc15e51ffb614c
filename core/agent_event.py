"""An event: something that has happened, for people and observers. One envelope for all of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from core.errors import BadEvent
from core.event_types import EventType, event_type, foreign_event_type
from core.tasks import utc_now

__all__ = ["EVENT_LIMIT_BYTES", "SCHEMA_VERSION", "AgentEvent", "check_data", "check_version"]

#: The version of the envelope. A reader refuses another major version; what a newer minor one adds, it passes over.
SCHEMA_VERSION = "1.0"
#: The longest text in a field of the envelope, and the largest event as JSON.
MAX_TEXT, EVENT_LIMIT_BYTES = 256, 256 * 1024
#: The deepest nesting of lists and dicts in an event's data.
MAX_DEPTH = 64
#: The whole numbers that every JSON parser of ours reads back as they are.
MIN_INT, MAX_INT = -(2**63), 2**64 - 1


def new_event_id() -> str:
    """A fresh id, 96 random bits as 24 hex digits."""
    return secrets.token_hex(12)


class AgentEvent(Struct):
    """Something that has happened.

    `data` is JSON of the program's own and comes back as it is: dicts with text as keys, lists, text, finite numbers,
    booleans and None. Whoever publishes an event checks it (`check`).
    """

    type: EventType
    stream_id: str = ""  #: the stream of executions it belongs to; of a hierarchy's own events, the coordinator's id
    node_id: str | None = None  #: the node of a graph
    execution_id: str | None = None  #: the run
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    timestamp: datetime = msgspec.field(default_factory=utc_now)  #: when it happened; aware
    correlation_id: str | None = None  #: what it belongs to, by the choice of whoever publishes it
    id: str = msgspec.field(default_factory=new_event_id)  #: the same however often the event is told
    sequence: int = 0  #: its place among the events of its source, from 1; 0: not published yet
    agent_id: str | None = None  #: the agent it happened in
    task_id: str | None = None
    root_id: str | None = None  #: the task at the root of the tree that the task belongs to
    session_id: str | None = None  #: the conversation (LangGraph's thread), within which events are in order
    causation_id: str | None = None  #: the id of the event that led to this one
    traceparent: str | None = None  #: the trace context, as in W3C's Trace Context
    schema_version: str = SCHEMA_VERSION

    def check(self) -> None:
        """Raises BadEvent when the event would not come back as it is."""
        self.type = event_type(self.type)
        self._check_texts()
        _check_moment(self.timestamp)
        check_data(self.data)

    def _check_texts(self) -> None:
        for name in _TEXTS:
            text = getattr(self, name)
            if text is not None and not (type(text) is str and len(text) <= MAX_TEXT and text.isascii()):
                _check_text(name, text)
        for name in _NEEDED:
            _check_text(name, getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """All fields by their names, with the timestamp in ISO 8601."""
        fields = msgspec.structs.asdict(self)
        fields["type"] = self.type.value
        fields["timestamp"] = self.timestamp.isoformat()
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AgentEvent:
        """The event that `to_dict` gave these fields of. Unknown fields are passed over, and a type that only a newer
        version knows is kept. Raises BadEvent: it is no event, or of another major version."""
        if not isinstance(fields.get("type"), str):
            raise BadEvent("this is no event: it has no type")
        check_version(fields)
        known = {name: fields[name] for name in cls.__struct_fields__ if name in fields}
        known["type"] = foreign_event_type(fields["type"])
        known["timestamp"] = _moment(fields.get("timestamp"))
        event = cls(**known)
        event._check_texts()
        if type(event.sequence) is not int or not 0 <= event.sequence < 2**63:
            raise BadEvent("an event's sequence is no whole number from 0")
        if not isinstance(event.data, dict):
            raise BadEvent("an event's data is no dict")
        return event


def check_version(fields: Mapping[str, Any]) -> None:
    """Raises BadEvent when these fields, of an event or of an entry with events, are of another major version."""
    version = fields.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, str) or version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise BadEvent(f"it is of version {str(version)[:20]!r}, and this program reads {SCHEMA_VERSION}. Update it.")


_NEEDED = ("stream_id", "id", "schema_version")
_TEXTS = (
    *("node_id", "execution_id", "correlation_id", "agent_id", "task_id", "root_id", "session_id", "causation_id"),
    "traceparent",
)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise BadEvent(f"an event's {name} is {type(text).__name__}, and has to be text")
    if len(text) > MAX_TEXT or not _is_unicode(text):
        raise BadEvent(f"an event's {name} is longer than {MAX_TEXT} characters, or no Unicode")


def _check_moment(moment: object) -> None:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise BadEvent("an event's timestamp is no time with a time zone. Use datetime.now(UTC).")


def _moment(text: object) -> datetime:
    """The moment in ISO 8601, in UTC. Raises BadEvent."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise BadEvent(f"an event's timestamp is {str(text)[:40]!r}, and has to be ISO 8601 with a time zone")
    return moment.astimezone(UTC)


def check_data(data: object) -> None:
    """Raises BadEvent when `data` is no dict that comes back from JSON as it is; the message says where it is not."""
    if type(data) is not dict:
        raise BadEvent(f"an event's data is {type(data).__name__}, and has to be a dict")
    _check_members(data, None, 1)


#: Where in the data something is: in what, and under which key or at which place in that. It becomes words for an error
#: alone. None: the data itself.
Where = tuple["Where", object] | None


def _in_words(where: Where) -> str:
    words: list[str] = []
    while where is not None:
        where, step = where
        words.append(f"[{step!r}]")
    return f"data{''.join(reversed(words))}"


def _check_value(value: Any, where: Where, depth: int) -> None:
    kind = type(value)
    if kind is str:
        if not (value.isascii() or _is_unicode(value)):
            raise BadEvent(f"{_in_words(where)} holds half of a surrogate pair, which is no Unicode")
    elif kind is dict or kind is list:
        if depth == MAX_DEPTH:
            raise BadEvent(f"{_in_words(where)[:80]} nests lists and dicts deeper than {MAX_DEPTH}; flatten it")
        _check_members(value, where, depth + 1)
    elif kind is int:
        if not MIN_INT <= value <= MAX_INT:
            raise BadEvent(f"{_in_words(where)} is a number of more than 64 bits. Use text in its place.")
    elif kind is float:
        if not isfinite(value):
            raise BadEvent(f"{_in_words(where)} is {value}, which JSON does not have. Use None or text in its place.")
    elif kind is not bool and value is not None:
        raise BadEvent(
            f"{_in_words(where)} is {kind.__name__}, which is no JSON."
            " Use dicts, lists, text, numbers, booleans and None."
        )


def _check_members(value: dict[Any, Any] | list[Any], where: Where, depth: int) -> None:
    if isinstance(value, list):
        for place, item in enumerate(value):
            _check_value(item, (where, place), depth)
        return
    for key, item in value.items():
        if type(key) is not str:
            raise BadEvent(f"{_in_words(where)} has a key that is {type(key).__name__}, and has to be text")
        if not (key.isascii() or _is_unicode(key)):
            raise BadEvent(f"a key of {_in_words(where)} holds half of a surrogate pair, which is no Unicode")
        _check_value(item, (where, key), depth)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
