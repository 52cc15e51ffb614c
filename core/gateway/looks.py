"""What a gateway does beside its requests: it looks again and again whether there is something to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from core.errors import AgentSystemError

__all__ = ["Waits", "look_again"]

log = logging.getLogger(__name__)


class Waits:
    """Logs once that something waits, and once that it goes on, however often it is tried in between."""

    def __init__(self, what: str, action: str) -> None:
        """`what`: waits, as its log lines begin."""
        self._what, self._action = what, action
        self._said = False

    def failed(self, error: Exception) -> None:
        if not self._said:
            log.warning("%s: %s", self._what, error, extra={"action": self._action})
        self._said = True

    def succeeded(self) -> None:
        if self._said:
            log.info("%s no more", self._what, extra={"action": f"{self._action}_no_more"})
        self._said = False


async def look_again(look: Callable[[], Awaitable[None]], every_s: float, waits: Waits) -> None:
    """Looks each `every_s` seconds, until it is cancelled. What one look meets keeps nobody from the next one."""
    while True:
        try:
            await look()
            waits.succeeded()
        except AgentSystemError as error:
            waits.failed(error)
        except Exception as error:
            log.error(
                "what a gateway does beside its requests met a bug", exc_info=error, extra={"action": "look_failed"}
            )
        await asyncio.sleep(every_s)
