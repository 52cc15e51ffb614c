"""Which agents are started again, and when."""

from __future__ import annotations

import signal

import pytest

from core.launch.restarts import LONGEST_PAUSE_S, MOST_DEATHS, PERIOD_S, Restarts


@pytest.mark.parametrize("exit_code", [0, 75, 2, 78])
def test_an_agent_that_was_stopped_or_is_misconfigured_is_not_started_again(exit_code: int) -> None:
    restarts = Restarts()
    assert restarts.pause_s(exit_code, 0.0) is None
    assert restarts.why_not(exit_code)


@pytest.mark.parametrize("exit_code", [-signal.SIGKILL, -signal.SIGSEGV, 1, 70])
def test_an_agent_that_died_is_started_again_with_growing_pauses(exit_code: int) -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(exit_code, float(second)) for second in range(4)]
    assert pauses == [0.1, 0.2, 0.4, 0.8]


def test_an_agent_that_dies_too_often_is_given_up() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(1, 0.0) for _ in range(MOST_DEATHS + 1)]
    assert None not in pauses[:-1]
    assert pauses[-1] is None
    assert "11 times within 60 s" in restarts.why_not(1)


def test_deaths_of_long_ago_do_not_count() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(1, number * (PERIOD_S / 2 + 1)) for number in range(50)]
    assert set(pauses) == {0.1, 0.2}


def test_starts_without_redis_are_repeated_for_as_long_as_it_is_away() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(69, 0.0) for _ in range(100)]
    assert pauses[0] == pytest.approx(0.2)
    assert pauses[-1] == LONGEST_PAUSE_S
    assert restarts.pause_s(1, 0.0) == 0.1  # no death was counted
