"""The standard streams of a host: what a run writes to them is its own, though all runs share one process."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from worker.authoring.context import Context, running_context

__all__ = ["share_streams"]


class SharedStream(io.TextIOWrapper):
    """A standard stream that hands what a run writes to `take`, and writes everything else to its descriptor. What
    goes past Python, from a library in C or a process, cannot be told apart, and is the host's."""

    def __init__(self, old: TextIO, take: Callable[[Context, str], bool]) -> None:
        buffer = open(old.fileno(), "wb", closefd=False)  # noqa: SIM115 - open as long as the process
        super().__init__(buffer, old.encoding, old.errors, line_buffering=True)
        self._take = take

    def write(self, text: str, /) -> int:
        context = running_context.get(None)
        if context is not None and self._take(context, text):
            return len(text)
        return super().write(text)


def share_streams(take: Callable[[Context, str], bool]) -> None:
    """Shares the standard streams between the runs of this process. `take`, which any thread may call, is given what
    is written in the context of an attempt; it returns False when it knows no such run."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, f"__{name}__")
        new = SharedStream(old, take)
        setattr(sys, f"__{name}__", new)
        if getattr(sys, name) is old:  # otherwise a module has replaced it
            setattr(sys, name, new)
    for handler in logging.root.handlers:
        with suppress(AttributeError, OSError, ValueError):  # a handler of the user's, with a stream of its own
            if isinstance(handler, logging.StreamHandler) and handler.stream.fileno() == sys.stderr.fileno():
                handler.setStream(sys.stderr)
