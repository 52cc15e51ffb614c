"""What an agent takes for a standstill of its own."""

from __future__ import annotations

import pytest

from core.runtime.watchdog import Watchdog


def test_waiting_for_redis_in_the_middle_of_a_turn_is_no_standstill_and_anything_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = waited_s = 100.0
    monkeypatch.setattr("core.runtime.watchdog.monotonic_s", lambda: now_s)
    watchdog = Watchdog(2.0, lambda: waited_s)
    watchdog.turns(busy=True)

    now_s, waited_s = now_s + 60, waited_s + 59
    assert not watchdog.wedged
    assert watchdog.stalled_s == pytest.approx(1)

    now_s += 1.5
    assert watchdog.wedged
