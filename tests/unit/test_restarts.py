"""Which processes are started again, and when."""

from __future__ import annotations

import signal

import pytest

from core.embedded_server.supervisor import SERVER_RESTARTS
from core.launch.restarts import AGENT_RESTARTS, AgentRestarts
from core.restart_policy import RestartPolicy, Restarts

POLICY = RestartPolicy(intensity=3, period_s=60.0, first_pause_s=1.0, max_pause_s=3.0)
POLICIES = pytest.mark.parametrize("policy", [POLICY, AGENT_RESTARTS, SERVER_RESTARTS])


# the policy of every supervisor


def test_what_dies_again_pauses_for_longer_up_to_the_maximum_and_is_given_up_then() -> None:
    restarts = Restarts(POLICY)
    assert [restarts.after_death(float(second)) for second in range(4)] == [1.0, 2.0, 3.0, None]


@POLICIES
def test_as_many_restarts_as_the_intensity_are_made_within_the_period_and_no_more(policy: RestartPolicy) -> None:
    restarts = Restarts(policy)
    times_s = [number * policy.period_s / (policy.intensity + 1) for number in range(policy.intensity + 1)]
    pauses = [restarts.after_death(at_s) for at_s in times_s]
    assert (None in pauses[:-1], pauses[-1]) == (False, None)
    assert restarts.deaths == policy.intensity + 1


@POLICIES
def test_what_dies_no_oftener_than_allowed_is_started_again_for_ever(policy: RestartPolicy) -> None:
    restarts = Restarts(policy)
    assert None not in [restarts.after_death(number * policy.period_s / policy.intensity) for number in range(50)]


def test_deaths_before_the_period_do_not_count() -> None:
    restarts = Restarts(POLICY)
    assert [restarts.after_death(at_s) for at_s in (0.0, 31.0, 62.0, 93.0, 153.0)] == [1.0, 2.0, 2.0, 2.0, 1.0]


def test_without_a_pause_it_is_started_again_at_once() -> None:
    restarts = Restarts(RestartPolicy(intensity=2, period_s=60.0))
    assert [restarts.after_death(0.0) for _ in range(3)] == [0.0, 0.0, None]


# what the exit code of an agent says


@pytest.mark.parametrize("exit_code", [0, 75, 2, 78])
def test_an_agent_that_was_stopped_or_is_misconfigured_is_not_started_again(exit_code: int) -> None:
    restarts = AgentRestarts()
    assert restarts.pause_s(exit_code, 0.0) is None
    assert restarts.why_not(exit_code)


@pytest.mark.parametrize("exit_code", [-signal.SIGKILL, -signal.SIGSEGV, 1, 70])
def test_an_agent_that_died_is_started_again_with_growing_pauses(exit_code: int) -> None:
    restarts = AgentRestarts()
    pauses = [restarts.pause_s(exit_code, float(second)) for second in range(4)]
    assert pauses == [0.1, 0.2, 0.4, 0.8]


def test_an_agent_that_dies_too_often_is_given_up_and_told_how_often() -> None:
    restarts = AgentRestarts()
    pauses = [restarts.pause_s(1, 0.0) for _ in range(AGENT_RESTARTS.intensity + 1)]
    assert pauses[-1] is None
    assert "11 times within 60 s" in restarts.why_not(1)


def test_starts_without_redis_are_repeated_for_as_long_as_it_is_away() -> None:
    restarts = AgentRestarts()
    pauses = [restarts.pause_s(69, 0.0) for _ in range(100)]
    assert (pauses[0], pauses[-1]) == (0.1, AGENT_RESTARTS.max_pause_s)
    assert restarts.pause_s(1, 0.0) == 0.1  # no death was counted
    assert restarts.pause_s(69, 0.0) == 0.1  # the outage before is over
