"""An event loop that user code on it cannot end.

asyncio hands SystemExit and KeyboardInterrupt to whoever awaits the task that raised them, and then lets them out of
the loop as well. Besides, anybody may call `loop.stop()`. On our loop neither affects the neighbours: whatever was to
run next is still there, so the loop continues.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["MAIN", "outlast", "run"]

#: The name of the task that `run` waits for.
MAIN = "main"

T = TypeVar("T")

log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `main` returns, as with `asyncio.run`, except that nothing else on the loop ends it. Remaining tasks are
    cancelled and awaited."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        try:
            return _complete(loop, main)
        finally:
            _complete(loop, _end_what_is_left())


def _complete(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    task = loop.create_task(work, name=MAIN)
    task.add_done_callback(lambda _: loop.stop())
    outlast(loop, task.done)
    return task.result()


async def _end_what_is_left() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def outlast(loop: asyncio.AbstractEventLoop, over: Callable[[], bool]) -> None:
    """Runs `loop` again each time it stops, until `over()` is true."""
    while True:
        try:
            loop.run_forever()
            what = "loop.stop() was called"
        except (SystemExit, KeyboardInterrupt):
            what = f"SystemExit or KeyboardInterrupt was raised in a task or callback, at {_place()}"
        if over():
            return
        log.warning("%s: the event loop goes on", what, extra={"action": "loop_goes_on"})


def _place() -> str:
    """Where the exception being handled was raised. The exception is not asked, since its methods are the user's."""
    last = traceback.extract_tb(sys.exc_info()[2])[-1]
    return f"{last.filename}:{last.lineno} in {last.name}"
