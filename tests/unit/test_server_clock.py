"""The server's clock, as a process sees it."""

from __future__ import annotations

import asyncio
import time

import pytest

from core.redis_backend.clock import ServerClock, monotonic_s


def reply(seconds: float) -> tuple[bytes, bytes]:
    """As Redis answers TIME."""
    return str(int(seconds)).encode(), str(round(seconds % 1 * 1e6)).encode()


class Later(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set forward."""

    forward_s = 0.0

    def time(self) -> float:
        return super().time() + self.forward_s


async def test_the_clock_shows_the_servers_time_and_goes_on_from_there() -> None:
    clock = ServerClock()

    clock.sync(reply(5_000.25), monotonic_s())

    assert clock.now().timestamp() == pytest.approx(5_000.25, abs=0.05)
    assert clock.now_ms() == pytest.approx(5_000_250, abs=50)


async def test_the_difference_to_the_clock_of_the_machine_is_known_once_the_server_has_told_its_time() -> None:
    clock = ServerClock()
    assert clock.machine_ahead_ms is None
    clock.sync(reply(time.time() - 90), monotonic_s())
    assert clock.machine_ahead_ms == pytest.approx(90_000, abs=100)


@pytest.mark.parametrize(
    ("round_trip_s", "shown"),
    [(0.001, 9_000.0), (8.0, 5_010.0)],
    ids=["the server's clock was set", "the reply was held up"],
)
def test_a_quick_reply_sets_the_clock_and_one_that_was_held_up_does_not(round_trip_s: float, shown: float) -> None:
    loop = Later()

    async def ask_twice() -> float:
        clock = ServerClock()
        clock.sync(reply(5_000.0), monotonic_s() - 0.001)
        loop.forward_s = 10.0
        clock.sync(reply(9_000.0), monotonic_s() - round_trip_s)
        return clock.now().timestamp()

    try:
        assert loop.run_until_complete(ask_twice()) == pytest.approx(shown, abs=0.1)
    finally:
        loop.close()
