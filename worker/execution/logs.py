"""Keeps what coroutines log with their attempts. What child processes log arrives with what they print."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from core.runtime.logs import Console
from worker.authoring.context import running_context
from worker.execution.attempt import Running

__all__ = ["AttemptLogs"]


class AttemptLogs(logging.Handler):
    """Keeps the end of what an attempt in `running`, by task id, logs in any thread."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        super().__init__()
        self.setFormatter(Console())
        self._running = running

    def install(self) -> None:
        """Begins to keep what is logged, if the process has set up logging: without any other handler, warnings go to
        stderr, and this one would stop that."""
        if logging.root.handlers:
            logging.root.addHandler(self)

    def remove(self) -> None:
        logging.root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        context = running_context.get(None)
        running = self._running.get(context.task_id) if context else None
        if running is not None and running.context is context:
            with suppress(Exception):  # a message that cannot be formatted, which other handlers report
                running.note(self.format(record))
