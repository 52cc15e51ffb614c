"""Handles an event loop that does not turn: names what holds it, and finally ends the process, since others have taken
over by then."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

__all__ = ["stay_awake"]

#: How many times within the limit the loop shows that it turns.
TURNS = 10

log = logging.getLogger(__name__)


async def stay_awake(limit_s: float, holder: Callable[[], str]) -> None:
    """Ends the process when this loop does not turn for `limit_s`; runs until it is cancelled. After half of that time
    the log names what holds the loop, since another thread asks `holder`, unless no other thread can run.

    The timer runs in a C thread, which needs no interpreter lock, so it works even when a regex holds the lock.
    """
    turns: SimpleQueue[bool] = SimpleQueue()
    Thread(target=_say_who_holds, args=(turns, limit_s, holder), name="standstill", daemon=True).start()
    try:
        while True:
            faulthandler.dump_traceback_later(limit_s, exit=True)
            turns.put(True)
            await asyncio.sleep(limit_s / TURNS)
    finally:
        faulthandler.cancel_dump_traceback_later()
        turns.put(False)


def _say_who_holds(turns: SimpleQueue[bool], limit_s: float, holder: Callable[[], str]) -> None:
    """Reads the signs of life of the loop, until it shows that it is done."""
    goes_on = True
    while goes_on:
        try:
            goes_on = turns.get(timeout=limit_s / 2)
        except Empty:
            log.error(
                "the event loop has stood still for %.3g s, in %s: an async def must not block, so await what takes"
                " long, or make it a plain function. After %.3g s this process ends",
                limit_s / 2,
                holder() or "code that is not known",
                limit_s,
                extra={"action": "loop_stands_still"},
            )
            goes_on = turns.get()
