"""What coroutines log is kept with their attempts. What child processes log comes with what they print."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from core.runtime.logs import Console
from worker.authoring.context import running_context
from worker.execution.attempt import Running

__all__ = ["AttemptLogs"]


class AttemptLogs(logging.Handler):
    """Keeps the end of what is logged below one of the attempts in ``running``, by task id, in whatever thread."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        super().__init__()
        self.setFormatter(Console())
        self._running = running

    def install(self) -> None:
        if logging.root.handlers:  # the first one would keep from stderr what has reached it without any
            logging.root.addHandler(self)

    def remove(self) -> None:
        logging.root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        context = running_context.get(None)
        running = self._running.get(context.task_id) if context else None
        if running is not None and running.context is context:
            with suppress(Exception):  # a message that cannot be made: other handlers tell of it
                running.note(self.format(record))
