"""Virtual time: an event loop on which nothing really waits.

When nothing is ready to run, the time jumps to the next timer. So hours of heartbeats, leases and pauses pass in
milliseconds, and a run depends only on its seed.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

__all__ = ["NothingLeft", "ServerTime", "VirtualLoop", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: The beginning of virtual time: by the monotonic clock, and in seconds since 1970.
START_S, EPOCH_S = 1_000.0, 1_767_225_600.0


class NothingLeft(RuntimeError):
    """The program waits, but nothing can wake it any more."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while something runs, and jumps when nothing does. It does no I/O, and has
    no threads: what others run in a thread takes no time here, and sees no running loop, as in a thread."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        called: asyncio.Future[T] = self.create_future()
        asyncio._set_running_loop(None)
        try:
            called.set_result(func(*args))
        except BaseException as error:  # SystemExit too, as from a thread
            called.set_exception(error)
        finally:
            asyncio._set_running_loop(self)
        return called

    def set_default_executor(self, executor: Executor) -> None:
        """Does nothing, since it would not be used."""


class _Jumps(selectors.SelectSelector):
    """A selector that advances the clock instead of waiting for files."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("everybody waits for somebody, and no timer is set")
        self.now_s += max(0.0, timeout)
        return []


class ServerTime:
    """The clock of a simulated server, in seconds since 1970. It advances with the time of a loop, or of the running
    one."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._offset_s = EPOCH_S - START_S

    def __call__(self) -> float:
        return self._offset_s + (self._loop or asyncio.get_running_loop()).time()

    def step(self, by_s: float) -> None:
        """Sets the clock forward, or back, by some seconds."""
        self._offset_s += by_s


def run_virtual(main: Coroutine[Any, Any, T], seed: int) -> T:
    """Runs `main` in virtual time, and returns its result.

    Random numbers from the module `random` depend only on `seed`. Raises NothingLeft when `main` waits for something
    that can never happen.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(main)
    finally:
        random.setstate(before)
