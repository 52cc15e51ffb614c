"""A host's event loop is woken from wherever it waits, and only there."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest

from worker.hosts.host_loop import HostLoop, loop_of_host

Tell: TypeAlias = Callable[[], object]


class Counting(HostLoop):
    """Counts how often it is woken."""

    woken = 0

    def _write_to_self(self) -> None:  # the only way asyncio has
        self.woken += 1
        super()._write_to_self()  # type: ignore[misc]


@pytest.fixture
def loop() -> Iterator[Counting]:
    loop = Counting()
    yield loop
    loop.close()


def heard(loop: Counting, tell: Callable[[Tell], object]) -> Coroutine[Any, Any, None]:
    """Returns once what `tell` is given has been called, which must be soon."""

    async def wait() -> None:
        told = asyncio.Event()
        tell(lambda: loop.call_soon_threadsafe(told.set))
        async with asyncio.timeout(10):
            await told.wait()

    return wait()


def test_it_is_not_woken_by_its_own_tasks_and_keeps_their_order(loop: Counting) -> None:
    found: list[int] = []

    async def tell() -> None:
        for number in range(0, 6, 2):
            loop.call_soon_threadsafe(found.append, number)
            loop.call_soon(found.append, number + 1)
        await asyncio.sleep(0)

    loop.run_until_complete(tell())
    assert (found, loop.woken) == ([0, 1, 2, 3, 4, 5], 0)


def test_another_thread_wakes_it_also_while_a_task_of_its_own_runs(loop: Counting) -> None:
    loop.run_until_complete(heard(loop, lambda tell: threading.Timer(0.05, tell).start()))
    assert loop.woken == 1

    def in_thread(tell: Tell) -> None:
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()  # this task is in its step meanwhile

    loop.run_until_complete(heard(loop, in_thread))
    assert loop.woken == 2


def test_a_signal_handler_wakes_it_while_it_waits_and_while_it_runs(loop: Counting) -> None:
    def after(delay_s: float) -> Callable[[Tell], object]:
        def tell_by_signal(tell: Tell) -> None:
            signal.signal(signal.SIGALRM, lambda *_: tell())
            signal.setitimer(signal.ITIMER_REAL, delay_s)

        return tell_by_signal

    def while_it_runs(tell: Tell) -> None:
        after(0.01)(tell)
        until_s = time.monotonic() + 0.05
        while time.monotonic() < until_s:
            pass

    before = signal.getsignal(signal.SIGALRM)
    try:
        loop.run_until_complete(heard(loop, after(0.05)))
        loop.run_until_complete(heard(loop, while_it_runs))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_program_that_has_chosen_a_kind_of_loop_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(asyncio.SelectorEventLoop):
        pass

    class Policy:
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return Own()

    monkeypatch.setattr(asyncio, "get_event_loop_policy", Policy)
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: Policy().new_event_loop())
    loop = loop_of_host()
    assert isinstance(loop, Own)
    loop.close()
