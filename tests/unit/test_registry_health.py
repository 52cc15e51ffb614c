"""The health of an agent follows from its heartbeats, its errors and its progress, each of which can bring it down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.registry.health import Successes, health_at, health_score, regularity

LEASE_MS = 8_000  # suspect after 4 s, planned every 2 s


@pytest.mark.parametrize(
    ("regular", "error_rate", "stalled_ms", "health"),
    [
        (1.0, 0.0, 0, 1.0),
        (0.5, 0.0, 0, 0.5),
        (1.0, 0.25, 0, 0.75),
        (1.0, 0.0, 2_000, 0.75),
        (1.0, 0.0, 8_000, 0.0),
        (0.5, 0.5, 4_000, 0.125),
    ],
)
def test_the_health_is_the_product_of_what_it_is_made_of(
    regular: float, error_rate: float, stalled_ms: float, health: float
) -> None:
    assert health_score(regular, error_rate, stalled_ms, LEASE_MS) == pytest.approx(health)


@pytest.mark.parametrize(
    ("silent_ms", "health"), [(0, 0.8), (2_000, 0.8), (5_000, 0.4), (8_000, 0.0), (60_000, 0.0), (-5_000, 0.8)]
)
def test_silence_lowers_the_health_down_to_nothing_at_the_end_of_the_lease(silent_ms: float, health: float) -> None:
    assert health_at(0.8, silent_ms, LEASE_MS) == pytest.approx(health)


def test_late_heartbeats_lower_the_regularity_and_punctual_ones_raise_it_again() -> None:
    assert regularity(1.0, 1_000, LEASE_MS) == 1.0
    late = regularity(regularity(1.0, 6_000, LEASE_MS), 6_000, LEASE_MS)
    assert late == pytest.approx(0.82)
    assert late < regularity(late, 2_000, LEASE_MS) < 1.0


def test_one_failure_is_no_verdict_and_many_are() -> None:
    successes = Successes()
    assert successes.error_rate == 0.0
    successes.add(0, 1)
    assert successes.error_rate == pytest.approx(1 / 3)
    for _ in range(50):
        successes.add(0, 5)
    assert successes.error_rate > 0.95
    for _ in range(50):
        successes.add(5, 0)
    assert successes.error_rate < 0.05


@given(st.floats(-1, 2), st.floats(-1, 2), st.floats(0, 1e9), st.integers(1_000, 3_600_000), st.floats(-1e6, 1e9))
def test_the_health_stays_between_nothing_and_one(
    regular: float, error_rate: float, stalled_ms: float, lease_ms: int, silent_ms: float
) -> None:
    score = health_score(regular, error_rate, stalled_ms, lease_ms)
    assert 0.0 <= health_at(score, silent_ms, lease_ms) <= score <= 1.0
