"""Virtual time: an event loop on which nothing really waits.

When nothing is ready to run, the time jumps to the next timer. So hours of heartbeats, leases and pauses pass in
milliseconds, and a run depends only on its seed.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
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

    def __init__(self, order: random.Random | None = None) -> None:
        """`order` decides which of the tasks that are ready at one time goes first; None: the one that was first."""
        self._jumps = _Jumps()
        self._order = order
        self._ready: deque[asyncio.Handle]
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now_s

    def _run_once(self) -> None:
        if self._order is not None and len(self._ready) > 1:
            self._reorder(self._order)
        super()._run_once()  # type: ignore[misc]

    def _reorder(self, order: random.Random) -> None:
        """Lets the tasks that are ready go on in another order. All other callbacks keep their places, since asyncio
        promises to call them in the order in which they came."""
        places = [place for place, handle in enumerate(self._ready) if _continues_a_task(handle)]
        handles = [self._ready[place] for place in places]
        order.shuffle(handles)
        for place, handle in zip(places, handles, strict=True):
            self._ready[place] = handle

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


def _continues_a_task(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]


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


def run_virtual(main: Coroutine[Any, Any, T], seed: int, *, any_order: bool = False) -> T:
    """Runs `main` in virtual time, and returns its result.

    Random numbers from the module `random` depend only on `seed`, and so does, with `any_order`, which of the tasks
    goes on first that could go on at the same time. Raises NothingLeft when `main` waits for something
    that can never happen.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        order = random.Random(seed) if any_order else None
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(order)) as runner:
            return runner.run(main)
    finally:
        random.setstate(before)
