"""An event loop that does not turn: what holds it is named, and in the end its process goes, since others have long
taken over by then."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

__all__ = ["stay_awake"]

#: The loop shows that it turns so many times within the limit.
TURNS = 10

log = logging.getLogger(__name__)


async def stay_awake(limit_s: float, holder: Callable[[], str]) -> None:
    """Has the process end when this loop does not turn for `limit_s`, until cancelled. After half of that the log says
    who holds it, as another thread asks `holder`; unless what holds it lets no other thread run.

    The timer runs in a thread of C, which needs no interpreter lock: not even a regex that holds it can outlast that.
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
    """Reads what the loop shows at each turn, until it shows that it is done."""
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
