"""An event as an entry of an agent stream: signed by who may write there, and read by other versions."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson
import pytest

from core.agent_event import AgentEvent
from core.errors import BadEvent, BadSignature, MalformedMessage, PeerError, UnknownKey
from core.event_types import EventType
from core.events.stream_entry import EntryFormat
from core.signing import stream_keys
from core.stored import pairs

KEYS = stream_keys("agent_events", b"a secret of the tests")
ENTRIES = EntryFormat(KEYS)


def entry(**fields: Any) -> list[bytes]:
    """A signed entry of an event with other fields than this version gives it."""
    [(key_id, key)] = KEYS.items()
    event = AgentEvent(EventType.CUSTOM, data={"n": 1}, session_id="s")
    body = orjson.dumps({**event.to_dict(), **fields})
    mac = hmac.digest(key, body, hashlib.sha256).hex()
    return [b"event", body, b"sig", f"{key_id}:{mac}".encode(), b"session", b"s"]


def written(event: AgentEvent, entries: EntryFormat = ENTRIES) -> list[bytes]:
    return [part.encode() if isinstance(part, str) else bytes(part) for part in entries.fields(event)]  # type: ignore[arg-type]


def test_an_entry_has_one_body_and_its_signature_and_names_the_session() -> None:
    assert list(pairs(written(AgentEvent(EventType.CUSTOM)))) == [b"event", b"sig"]
    assert pairs(written(AgentEvent(EventType.CUSTOM, session_id="\u00fc")))[b"session"] == "\u00fc".encode()


@pytest.mark.parametrize("session_id", [None, "", "s", "\u00fc"])
def test_an_event_comes_back_as_it_was(session_id: str | None) -> None:
    event = AgentEvent(EventType.TOOL_RESULT, "stream", data={"a": [1.0, None]}, session_id=session_id)
    received = ENTRIES.event("1-0", written(event))
    assert received.event == event
    assert ("session_id" in received) == (session_id is not None)
    assert received.only_for is None


@pytest.mark.parametrize("sequence", [-1, 2**63])
def test_a_sequence_that_is_none_is_refused_before_it_is_sent(sequence: int) -> None:
    with pytest.raises(BadEvent, match="sequence"):
        ENTRIES.fields(AgentEvent(EventType.CUSTOM, sequence=sequence))


def test_a_newer_version_may_add_fields_and_types() -> None:
    received = ENTRIES.event("1-0", entry(type="task_teleported", colour="red", schema_version="1.7"))
    assert received["type"] == "task_teleported"
    assert type(received["type"]) is str
    assert received.event.data == {"n": 1}


def test_another_zone_is_read_as_the_same_time_in_utc() -> None:
    received = ENTRIES.event("1-0", entry(timestamp="2026-01-02T03:00:00+02:00"))
    assert received.event.timestamp.isoformat() == "2026-01-02T01:00:00+00:00"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema_version": "2.0"}, "Update"),
        ({"data": []}, "dict"),
        ({"type": None}, "type"),
        ({"sequence": -1}, "seq"),
    ],
)
def test_what_this_version_cannot_understand_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadEvent, match=words):
        ENTRIES.event("1-0", entry(**fields))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        (b"event", b"{}", BadSignature),
        (b"event", b"", BadSignature),
        (b"event", b"x" * 300_000, MalformedMessage),
        (b"sig", b"", UnknownKey),
        (b"sig", next(iter(KEYS)).encode() + b":", BadSignature),
        (b"session", b"another", BadSignature),
        (b"session", b"", BadSignature),
    ],
)
def test_an_entry_that_was_changed_is_refused(name: bytes, value: bytes, error: type[PeerError]) -> None:
    changed = {**pairs(entry()), name: value}
    with pytest.raises(error):
        ENTRIES.event("1-0", [part for pair in changed.items() for part in pair])


@pytest.mark.parametrize("missing", [b"event", b"sig"])
def test_an_entry_without_a_field_is_refused(missing: bytes) -> None:
    left = [part for name, value in pairs(entry()).items() if name != missing for part in (name, value)]
    with pytest.raises(MalformedMessage):
        ENTRIES.event("1-0", left)


def test_each_stream_and_each_secret_has_a_key_of_its_own() -> None:
    event = AgentEvent(EventType.CUSTOM)
    with pytest.raises(BadSignature):
        EntryFormat(stream_keys("another", b"a secret of the tests")).event("1-0", written(event))
    with pytest.raises(UnknownKey):
        EntryFormat(stream_keys("agent_events", b"another secret of the tests")).event("1-0", written(event))


def test_during_a_rotation_both_secrets_are_believed_and_the_current_one_signs() -> None:
    event = AgentEvent(EventType.CUSTOM)
    rotating = EntryFormat(stream_keys("agent_events", b"the next secret", b"a secret of the tests"))
    assert rotating.event("1-0", written(event)).event == event
    assert EntryFormat(stream_keys("agent_events", b"the next secret")).event("1-0", written(event, rotating))
