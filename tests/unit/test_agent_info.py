"""An agent as the registry stores and tells it."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import BadAgent
from core.registry.agent_info import (
    AgentInfo,
    Declared,
    FleetStatus,
    Lifecycle,
    Load,
    Vital,
    fields_of,
    fields_of_vital,
    info_of,
    status_of,
)
from core.stored import pairs

DECLARED = Declared(
    agent_id="a-1", agent_type="worker", capabilities=("gpu",), services=("echo", "write"), graphs=("write",),
    tags=("region=eu",), endpoints={"health": "http://127.0.0.1:1"}, metadata={"pid": 7}, version="1.2",
)  # fmt: skip


def stored(declared: Declared = DECLARED, vital: Vital | None = None, **fields: Any) -> dict[bytes, bytes]:
    """A record as the scripts leave it, heard at 100 s, with a lease of 8 s."""
    parts = [*fields_of(declared), *fields_of_vital(vital or Vital())]
    record = pairs([part if isinstance(part, bytes) else part.encode() for part in parts])
    known = {"agent_id": declared.agent_id, "place": "p", "incarnation": 5, "registration_time": 90_000}
    known |= {"last_heartbeat": 100_000, "lease_ms": 8_000, **fields}
    return record | {name.encode(): str(value).encode() for name, value in known.items()}


def read(now_ms: int, vital: Vital | None = None, **fields: Any) -> AgentInfo:
    info = info_of(stored(vital=vital, **fields), now_ms)
    assert info is not None
    return info


def test_what_is_declared_comes_back() -> None:
    info = read(100_500, Vital(load=Load(in_flight=2, capacity=8, cpu=0.5), health_score=0.9))
    assert {name: getattr(info, name) for name in Declared.__struct_fields__} == {
        name: getattr(DECLARED, name) for name in Declared.__struct_fields__
    }
    assert (info.load_metrics.in_flight, info.load_metrics.cpu, info.health_score) == (2, 0.5, 0.9)
    assert (info.registration_time.timestamp(), info.last_heartbeat.timestamp()) == (90, 100)


def test_a_clock_that_was_not_measured_is_not_told_as_right() -> None:
    assert read(100_500).clock_ahead_ms is None
    assert read(100_500, Vital(clock_ahead_ms=-2_500)).clock_ahead_ms == -2_500


@pytest.mark.parametrize(
    ("now_ms", "lifecycle", "status"),
    [
        (103_999, Lifecycle.ACTIVE, FleetStatus.ACTIVE),
        (104_000, Lifecycle.SUSPECT, FleetStatus.STALE),
        (107_999, Lifecycle.SUSPECT, FleetStatus.STALE),
        (108_000, Lifecycle.GONE, FleetStatus.INACTIVE),
    ],
)
def test_silence_makes_an_agent_suspect_and_then_gone(now_ms: int, lifecycle: Lifecycle, status: FleetStatus) -> None:
    info = read(now_ms)
    assert (info.lifecycle, info.status) == (lifecycle, status)


def test_an_agent_that_has_left_stays_gone_however_fresh_its_last_heartbeat_is() -> None:
    info = read(100_000, lifecycle="gone", status="inactive")
    assert (info.lifecycle, info.health_score) == (Lifecycle.GONE, 0.0)


@pytest.mark.parametrize(
    ("lifecycle", "load", "is_paused", "status"),
    [
        (Lifecycle.ACTIVE, Load(in_flight=3, capacity=4), False, FleetStatus.ACTIVE),
        (Lifecycle.ACTIVE, Load(in_flight=4, capacity=4), False, FleetStatus.BUSY),
        (Lifecycle.ACTIVE, Load(in_flight=400), False, FleetStatus.ACTIVE),
        (Lifecycle.ACTIVE, Load(), True, FleetStatus.INACTIVE),
        (Lifecycle.JOINING, Load(), False, FleetStatus.INACTIVE),
        (Lifecycle.DRAINING, Load(in_flight=4, capacity=4), False, FleetStatus.INACTIVE),
        (Lifecycle.SUSPECT, Load(), False, FleetStatus.STALE),
    ],
)
def test_the_status_follows_from_life_and_load(
    lifecycle: Lifecycle, load: Load, is_paused: bool, status: FleetStatus
) -> None:
    assert status_of(lifecycle, load, is_paused=is_paused) is status


@pytest.mark.parametrize(
    "broken",
    [
        {"last_heartbeat": "soon"},
        {"capabilities": "{"},
        {"lifecycle": "asleep"},
        {"load_metrics": "[]"},
        {"load_metrics": '{"in_flight": -1}'},
        {"load_metrics": '{"cpu": 1e300}'},
        {"health_score": "nan"},
        {"health_score": "1e9"},
        {"regularity": "-inf"},
        {"place": b"\xff"},
    ],
)
def test_a_record_that_nobody_of_ours_has_written_is_no_agent(broken: dict[str, Any]) -> None:
    record = stored()
    for name, value in broken.items():
        record[name.encode()] = value if isinstance(value, bytes) else value.encode()
    assert info_of(record, 100_000) is None
    assert info_of({}, 100_000) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"agent_id": "a b"}, "agent_id: takes"),
        ({"agent_type": "robot"}, "agent_type: 'robot' is none of coordinator, distributor"),
        ({"tags": ("two\nlines",)}, "tags: takes"),
        ({"capabilities": ("",)}, "capabilities: takes"),
        ({"services": ("x" * 211,)}, "services: takes"),
        ({"metadata": {"x": "y" * 300_000}}, "shorten its metadata"),
    ],
)
def test_what_cannot_be_declared_is_refused_with_the_field_and_the_cure(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(BadAgent, match=said):
        Declared(**{"agent_id": "a", **wrong}).check()


def test_an_agent_is_listed_under_everything_that_it_is_and_can_do() -> None:
    assert DECLARED.indexes() == [
        "all", "type:worker", "capability:gpu", "service:echo", "service:write", "graph:write", "tag:region=eu",
    ]  # fmt: skip
