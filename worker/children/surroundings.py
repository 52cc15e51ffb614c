"""What belongs to a child process and not to an attempt: after each one it is put back as it was before the first.

Directory, variables, streams, signals and the like are everybody's in a process, and user code changes them in passing.
What one attempt leaves of that must not decide how the next one fares. What cannot be put back is a reason to replace
the child.
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

#: Those that would end the next attempt, or keep it from seeing how its own processes end. Looking at one costs 0.5 µs.
SIGNALS = (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)


class Surroundings:
    """Those of this process, as they are now. As a context manager around an attempt: puts everything back at the end,
    20 µs if all is as it was, and prints what the streams still hold."""

    def __init__(self) -> None:
        self._away = False  #: an attempt has them, or they could not be put back
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
        # Of its own, also where the user's modules have made one: after a fork that is shared with others.
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    @property
    def spoilt(self) -> str:
        """What of them is lost for good; '' when nothing is."""
        try:
            closed = any(getattr(stream, "closed", False) for stream in self._streams.values())
        except ValueError:  # what was below it was taken away
            closed = True
        return "a standard stream is closed" if closed else "not everything could be restored" if self._away else ""

    def __enter__(self) -> None:
        self._away = True

    def __exit__(self, *_: object) -> None:
        self._restore_signals()  # first: until then a timer of the attempt may strike
        self._restore_streams()
        with suppress(OSError):  # closed by the attempt, along with everything else
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
            if signal.getsignal(number) is not handler and handler is not None:  # None: not one of Python's
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _restore_streams(self) -> None:
        """Lets go of the user's, of which one that ends closes what it has stood on: the descriptors come after."""
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
        """The current loop, for functions that take it: one that can be used."""
        try:
            current = asyncio.get_event_loop_policy().get_event_loop()
        except RuntimeError:  # asyncio.run leaves none
            current = self._loop
        if current.is_closed():
            current = self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(current)


def _flush(stream: Any) -> None:
    with suppress(Exception):  # it may be none, closed, or an object of the user's
        stream.flush()


def _data(environment: Any) -> dict[bytes, bytes]:
    """The variables as they are kept: comparing them through `os.environ`, which encodes each, takes 60 µs."""
    data: dict[bytes, bytes] = environment._data
    return data
