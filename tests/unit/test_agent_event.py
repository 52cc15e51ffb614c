"""The envelope of an event: it comes back as it was, or is refused in words."""

from __future__ import annotations

import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.agent_event import MAX_DEPTH, AgentEvent, check_data
from core.errors import BadEvent
from core.event_types import EventType

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES | st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def event(**fields: Any) -> AgentEvent:
    return AgentEvent(**{"type": EventType.CUSTOM, "stream_id": "s", **fields})


def nested(depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(depth - 1):
        data = {"in": data}
    return data


def test_the_first_seven_fields_can_be_given_by_position() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    made = AgentEvent(EventType.NODE_STALLED, "stream", "node", "run", {"reason": "x"}, moment, "order-1")
    assert (made.node_id, made.execution_id, made.timestamp, made.correlation_id) == ("node", "run", moment, "order-1")


def test_each_event_has_an_id_of_its_own_and_an_aware_time() -> None:
    first, second = event(), event()
    assert first.id != second.id
    assert first.timestamp.tzinfo is UTC
    assert first != second


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_an_event_comes_back_from_json_as_it_was(data: dict[str, Any]) -> None:
    sent = event(data=data, sequence=3, session_id="t", agent_id="w", task_id="a", root_id="r", traceparent="00-1-2-01")
    sent.check()
    assert AgentEvent.from_dict(json.loads(json.dumps(sent.to_dict()))) == sent


def test_to_dict_has_every_field_also_those_that_are_none() -> None:
    fields = event().to_dict()
    assert tuple(fields) == AgentEvent.__struct_fields__
    assert type(fields["type"]) is str
    assert fields["node_id"] is None


def test_a_time_of_another_zone_comes_back_in_utc() -> None:
    sent = event(timestamp=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))))
    back = AgentEvent.from_dict(sent.to_dict())
    assert back.timestamp == sent.timestamp
    assert back.timestamp.tzinfo is UTC


def test_unknown_fields_and_newer_types_of_the_same_major_version_pass() -> None:
    fields = {**event().to_dict(), "type": "task_teleported", "colour": "red", "schema_version": "1.7"}
    back = AgentEvent.from_dict(fields)
    assert back.type == "task_teleported"
    assert back.schema_version == "1.7"


@pytest.mark.parametrize("version", ["2.0", "0.9", "", 1, None, "10.0"])
def test_another_major_version_is_refused(version: object) -> None:
    with pytest.raises(BadEvent, match="version"):
        AgentEvent.from_dict({**event().to_dict(), "schema_version": version})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": None}, "no type"),
        ({"type": "two words"}, "type"),
        ({"timestamp": "2026-01-02T03:04:05"}, "time zone"),
        ({"timestamp": "yesterday"}, "ISO 8601"),
        ({"timestamp": 1.5}, "ISO 8601"),
        ({"data": []}, "dict"),
        ({"stream_id": None}, "stream_id"),
        ({"id": 7}, "id"),
        ({"node_id": 7}, "node_id"),
        ({"task_id": "x" * 257}, "task_id"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": True}, "sequence"),
        ({"sequence": "1"}, "sequence"),
        ({"sequence": 2**63}, "sequence"),
    ],
)
def test_what_is_no_event_is_refused_with_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadEvent, match=message):
        AgentEvent.from_dict({**event().to_dict(), **fields})


@pytest.mark.parametrize("field", ["type", "timestamp"])
def test_an_event_without_a_type_or_a_time_is_refused(field: str) -> None:
    fields = event().to_dict()
    del fields[field]
    with pytest.raises(BadEvent, match=field):
        AgentEvent.from_dict(fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": (1, 2)}, r"data\['a'\] is tuple"),
        ({"a": [1, {2}]}, r"data\['a'\]\[1\] is set"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "datetime"),
        ({"a": Decimal(1)}, "Decimal"),
        ({"a": b"x"}, "bytes"),
        ({"a": EventType.CUSTOM}, "EventType"),
        ({1: 2}, "key that is int"),
        ({"a": {None: 1}}, "key that is NoneType"),
        ({"a": math.nan}, "nan"),
        ({"a": [math.inf]}, "inf"),
        ({"a": 2**64}, "64 bits"),
        ({"a": -(2**63) - 1}, "64 bits"),
        ({"a": "\ud800"}, "Unicode"),
        ({"\ud800": 1}, "Unicode"),
        ([], "has to be a dict"),
        (None, "has to be a dict"),
        (nested(MAX_DEPTH + 1), "deeper than"),
    ],
)
def test_data_that_would_not_come_back_is_refused_with_its_place(data: Any, message: str) -> None:
    with pytest.raises(BadEvent, match=message):
        event(data=data).check()


@pytest.mark.parametrize("data", [{"a": 2**64 - 1, "b": -(2**63)}, nested(MAX_DEPTH), {}, {"ü": "ü", "": None}])
def test_data_at_the_limits_is_accepted(data: dict[str, Any]) -> None:
    check_data(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timestamp": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"timestamp": 1.0}, "time zone"),
        ({"type": "nonsense"}, "nonsense"),
        ({"stream_id": None}, "stream_id"),
        ({"node_id": 7}, "node_id is int"),
        ({"correlation_id": "x" * 257}, "correlation_id"),
        ({"session_id": "\ud800"}, "session_id"),
    ],
)
def test_an_envelope_that_would_not_come_back_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadEvent, match=message):
        event(**fields).check()


def test_a_type_in_words_becomes_a_member() -> None:
    made = event(type="TASK_FAILED")
    made.check()
    assert made.type is EventType.TASK_FAILED


def test_an_event_can_be_copied_and_pickled() -> None:
    made = event(data={"a": [1]})
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made
