"""Failpoints: what AGENT_FAILPOINTS may say, and that they act at the hit that was named, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import failpoints
from core.config.sources import load
from core.errors import ConfigError
from core.failpoints import FailpointHit


@pytest.fixture(autouse=True)
def _inert_again() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_a_point_acts_at_the_hit_that_was_named_and_never_again() -> None:
    failpoints.arm("read:2:raise")

    failpoints.hit("read")
    failpoints.hit("verify")
    with pytest.raises(FailpointHit, match="read:2:raise"):
        failpoints.hit("read")
    failpoints.hit("read")


def test_unarmed_points_do_nothing() -> None:
    for name in failpoints.NAMES:
        failpoints.hit(name)


def test_two_entries_of_one_point_count_apart() -> None:
    failpoints.arm("exec:1:delay=0, exec:2:raise")

    failpoints.hit("exec")
    with pytest.raises(FailpointHit):
        failpoints.hit("exec")


@pytest.mark.parametrize(
    "text", ["raed:1:kill", "read", "read:0:kill", "read:x:kill", "read:1:explode", "read:1:delay", "read:1:delay=long"]
)
def test_what_is_wrong_is_named_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"AGENT_FAILPOINTS: '{text}'.*(Names|Actions): "):
        failpoints.arm(text)


def test_the_variable_reaches_the_settings_of_an_agent() -> None:
    assert load({"AGENT_FAILPOINTS": "exec:1:kill"}).agent.failpoints == "exec:1:kill"
