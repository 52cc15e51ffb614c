"""Restores the state of a child process after each attempt to what it was before the first one.

The working directory, environment variables, streams, signals and the like belong to the whole process, and user code
may change them. One attempt must not influence the next. A child whose state cannot be restored is replaced.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import locale
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

__all__ = ["Surroundings"]

STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}

TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

#: Signals that could end the next attempt, or keep it from noticing that its processes end. Checking one costs 0.5 µs.
SIGNALS = (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)


class Surroundings:
    """The present state of this process. Use it as a context manager around an attempt: at the end it restores the
    state, which costs 20 µs if nothing has changed, and flushes the streams."""

    def __init__(self) -> None:
        self._away = False  #: whether an attempt runs, or the state could not be restored
        self._directory = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._environment = os.environ
        self._variables = dict(_data(os.environ))
        self._streams = {name: getattr(sys, name) for name in STREAMS}
        self._descriptors = {number: os.dup(number) for number in STREAMS.values()}
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._recursion_limit = sys.getrecursionlimit()
        self._socket_timeout_s = socket.getdefaulttimeout()
        self._collects = gc.isenabled()
        self._locale = locale.setlocale(locale.LC_ALL)
        # A loop of its own, even if the user's modules have made one, which after a fork is shared with other children.
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    @property
    def spoilt(self) -> str:
        """What could not be restored; empty if everything was."""
        try:
            closed = any(getattr(stream, "closed", False) for stream in self._streams.values())
        except ValueError:  # its buffer was detached
            closed = True
        return "a standard stream is closed" if closed else "not everything could be restored" if self._away else ""

    def __enter__(self) -> None:
        self._away = True

    def __exit__(self, *_: object) -> None:
        self._restore_signals()  # first, since a timer of the attempt may still fire
        self._restore_streams()
        with suppress(OSError):  # the attempt has closed our descriptors
            for number, kept in self._descriptors.items():
                os.dup2(kept, number)
            os.fchdir(self._directory)
            os.umask(self._umask)
            self._restore_variables()
            self._restore_interpreter()
            self._restore_loop()
            self._away = False

    def _restore_signals(self) -> None:
        for timer in TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:  # None: it was not set by Python
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _restore_streams(self) -> None:
        """Restores the streams before the descriptors, since a stream of the user's closes its descriptor when it is
        freed."""
        for name, stream in self._streams.items():
            if (current := getattr(sys, name)) is not stream:
                _flush(current)
                setattr(sys, name, stream)
            _flush(stream)

    def _restore_variables(self) -> None:
        os.environ = self._environment  # noqa: B003
        if _data(os.environ) != self._variables:
            for name in _data(os.environ).keys() - self._variables.keys():
                del os.environb[name]
            os.environb.update(self._variables)
            time.tzset()

    def _restore_interpreter(self) -> None:
        sys.setrecursionlimit(self._recursion_limit)
        socket.setdefaulttimeout(self._socket_timeout_s)
        if self._collects:
            gc.enable()
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)

    def _restore_loop(self) -> None:
        """Makes sure that the current event loop is open, for functions that use it."""
        try:
            current = asyncio.get_event_loop_policy().get_event_loop()
        except RuntimeError:  # there is none after asyncio.run
            current = self._loop
        if current.is_closed():
            current = self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(current)


def _flush(stream: Any) -> None:
    with suppress(Exception):  # it may be None, closed, or any object of the user's
        stream.flush()


def _data(environment: Any) -> dict[bytes, bytes]:
    """The variables in their stored form. Comparing them through `os.environ`, which encodes each, takes 60 µs."""
    data: dict[bytes, bytes] = environment._data
    return data
