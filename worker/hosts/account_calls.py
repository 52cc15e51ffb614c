"""The calls of the accounts of a worker, carried over the socket of a host."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from threading import Event
from typing import Any

from core.budget import Reservation, Settlement
from core.errors import BadTask
from worker.hosts.storage_calls import Remote

__all__ = ["RunAccounts"]

#: Seconds between two looks at whether calls under way have left enough.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0


class RunAccounts:
    """The accounts (see worker.hosts.accounts) as the callbacks of one run use them: from threads, which wait."""

    def __init__(self, remote: Remote, loop: asyncio.AbstractEventLoop) -> None:
        self._remote = remote
        self._loop = loop
        self._asked: set[Future[Any]] = set()
        self._ended = Event()

    def reserve(self, asked: Reservation) -> None:
        """Returns when the call may be made. While calls under way may leave enough for it, it waits for those.

        Raises BudgetExhausted, BadTask; CancelledError: the run has ended."""
        pause_s = FIRST_PAUSE_S
        while not self._wait(self._remote.ask("reserve", asked)):
            if self._ended.wait(pause_s):
                raise CancelledError
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def settle(self, used: Settlement) -> None:
        """Returns when it is counted. Raises CancelledError: the run has ended."""
        self._wait(self._remote.ask("settle", used))

    def close(self) -> None:
        """Lets go all threads that wait, since the run has ended."""
        self._ended.set()
        for asked in list(self._asked):
            asked.cancel()

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        if _running_loop() is self._loop:
            call.close()
            raise BadTask(
                "a model is called from a coroutine in a way that blocks it, so that its budget cannot be asked for:"
                " await model.ainvoke(...), or make the node a plain function"
            )
        asked = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._asked.add(asked)
        try:
            return asked.result()
        finally:
            self._asked.discard(asked)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
