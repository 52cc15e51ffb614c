"""Renews what the user's modules make at import and what does not survive a fork: threads and random generators.

A child has a copy of everything that its forkserver has imported, but none of its threads, and its generators would
give the same random numbers as those of every other child. Thread pools, and generators without a seed, are renewed.
Other threads cannot be, so their names are reported.
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

#: Seconds that pools have to finish the calls of the import. A child never gets the outcome of a longer call.
POOLS_TIMEOUT_S = 30.0

_unseeded: dict[int, weakref.ref[random.Random]] = {}


@contextmanager
def noting_generators() -> Iterator[None]:
    """Notes the random generators that are made in this context without a seed."""
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
    """Seeds the noted generators in a child, so that each child has its own random numbers. The module `random` does
    that by itself."""
    for known in _unseeded.values():
        generator = known()
        if generator is not None:
            generator.seed()


def renew_pools() -> None:
    """Lets thread pools in the forkserver finish their calls, and ends their threads. A pool starts new threads when it
    is used again, in each child."""
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
    """The names of the threads that children will not have, sorted."""
    return sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
