"""What the user's modules make at import and a fork does not carry over as it is: threads, and chance.

A child has a copy of all that its forkserver has imported, but none of its threads, and the same random numbers ahead
as every other child. Thread pools and generators without a seed are renewed; of other threads only their names are
told.
"""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

__all__ = ["noting_generators", "renew_generators", "renew_pools", "threads_left"]

#: For what pools were given at import to be done. What takes longer a child never hears of.
POOLS_TIMEOUT_S = 30.0

_unseeded: dict[int, weakref.ref[random.Random]] = {}


@contextmanager
def noting_generators() -> Iterator[None]:
    """Takes note of the generators that are made meanwhile with no seed of their own."""
    seed = random.Random.seed

    def noting(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, a, version)
        if a is None:
            _unseeded[id(self)] = weakref.ref(self)
        else:
            _unseeded.pop(id(self), None)

    random.Random.seed = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        random.Random.seed = seed  # type: ignore[method-assign]


def renew_generators() -> None:
    """In a child: from now on they go ways of their own, as those of `random` itself do after a fork."""
    for known in _unseeded.values():
        generator = known()
        if generator is not None:
            generator.seed()


def renew_pools() -> None:
    """In the forkserver: lets thread pools finish what they were given, and ends their threads. They start others when
    they are used again, each child its own."""
    if threading.active_count() == 1:
        return
    found = (candidate for candidate in gc.get_objects() if issubclass(type(candidate), ThreadPoolExecutor))
    pools = [pool for pool in found if pool._threads and not pool._shutdown]
    for pool in pools:
        pool.shutdown(wait=False)
    until_s = monotonic() + POOLS_TIMEOUT_S
    for pool in pools:
        for thread in pool._threads:
            thread.join(max(0.0, until_s - monotonic()))
        ThreadPoolExecutor.__init__(
            pool, pool._max_workers, pool._thread_name_prefix, pool._initializer, pool._initargs
        )


def threads_left() -> list[str]:
    """The names of those that no child will have."""
    return sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
