"""How the pauses between attempts grow, and where they end."""

from __future__ import annotations

import pytest

from core.backoff import MAX_S, Backoff


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(first_s=1, max_s=5)

    grown = [backoff.next(1.0) for _ in range(5)]
    backoff.reset()

    assert grown == [1, 2, 4, 5, 5]
    assert backoff.next(1.0) == 1


def test_chance_moves_a_pause_within_the_upper_half_of_its_range_and_nothing_after_it() -> None:
    rows = [Backoff(first_s=1, max_s=5) for _ in range(3)]

    assert [backoff.next(chance) for backoff, chance in zip(rows, (0.0, 0.5, 1.0), strict=True)] == [0.5, 0.75, 1.0]
    assert [backoff.next(1.0) for backoff in rows] == [2, 2, 2]


@pytest.mark.parametrize(
    ("lease_s", "max_s"), [(60.0, MAX_S), (5.0, 1.0), (0.1, 0.02)], ids=["long", "short", "shorter than a pause"]
)
def test_who_holds_a_lease_never_sleeps_away_more_than_a_fifth_of_it(lease_s: float, max_s: float) -> None:
    backoff = Backoff.under_lease(lease_s)

    assert max(backoff.next(1.0) for _ in range(10)) == pytest.approx(max_s)
