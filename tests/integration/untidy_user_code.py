"""Handlers that leave their process other than they found it, for the tests of what the next attempt finds."""

from __future__ import annotations

import asyncio
import codecs
import faulthandler
import gc
import io
import locale
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from worker.authoring.handlers import task

hidden: list[object] = []


@task("look")
def look() -> dict[str, Any]:
    """All that an attempt may find other than the one before did."""
    print("looked")  # noqa: T201
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
        "zone": time.localtime().tm_zone,
        "recursion_limit": sys.getrecursionlimit(),
        "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "descriptors": [os.fstat(number)[1:3] for number in range(3)],
        "timers": [signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)],
        "handlers": [repr(signal.getsignal(number)) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "socket_timeout": socket.getdefaulttimeout(),
        "collects": gc.isenabled(),
        "locale": locale.setlocale(locale.LC_ALL),
        "limits": [resource.getrlimit(number) for number in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)],
        "loop": asyncio.get_event_loop_policy().get_event_loop().is_closed(),
        "pid": os.getpid(),
    }


def to_a_directory_that_goes() -> None:
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    shutil.rmtree(gone)


def to_another_environment() -> None:
    os.environ["LEFT_BEHIND"] = "1"
    os.environ["TZ"] = "Asia/Tokyo"
    del os.environ["PATH"]
    time.tzset()


def to_no_environment() -> None:
    os.environ = {}  # type: ignore[assignment] # noqa: B003


def to_other_streams() -> None:
    sys.stdout = io.StringIO()
    sys.stderr = codecs.getwriter("utf-8")(sys.stderr.buffer)
    sys.stdin = None


def to_a_stream_taken_apart() -> None:
    assert isinstance(sys.stdout, io.TextIOWrapper)
    hidden.append(io.TextIOWrapper(sys.stdout.detach()))


def to_closed_descriptors() -> None:
    for number in range(3):
        os.close(number)


def to_another_file() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def to_a_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def to_signals() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def to_a_closed_loop() -> None:
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


LEAVES: dict[str, Callable[[], object]] = {
    "directory": to_a_directory_that_goes,
    "umask": lambda: os.umask(0o777),
    "environment": to_another_environment,
    "no environment": to_no_environment,
    "recursion limit": lambda: sys.setrecursionlimit(100),
    "streams": to_other_streams,
    "descriptors": to_closed_descriptors,
    "another file": to_another_file,
    "alarm": lambda: signal.alarm(1000),
    "timer": lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 1000),
    "signals": to_signals,
    "socket timeout": lambda: socket.setdefaulttimeout(0.001),
    "collector": gc.disable,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "limit": to_a_limit,
    "closed loop": to_a_closed_loop,
    "no loop": lambda: asyncio.run(asyncio.sleep(0)),
    # from here on it takes another process
    "closed stream": lambda: sys.stdout.close(),
    "stream taken apart": to_a_stream_taken_apart,
    "stream wrapped": lambda: setattr(sys, "stdout", io.TextIOWrapper(sys.stdout.buffer)),
}


@task("kinds")
def kinds() -> list[str]:
    return list(LEAVES)


@task("leave")
def leave(payload: str) -> int:
    LEAVES[payload]()
    return os.getpid()


@task("leave_and_fail", retries=0)
def leave_and_fail(payload: str) -> None:
    LEAVES[payload]()
    raise ValueError(payload)


@task("strike")
def strike() -> int:
    """Its alarm strikes when it has ended, unless it is taken back."""
    faulthandler.dump_traceback_later(0.05, exit=True)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return os.getpid()


@task("outlast")
def outlast() -> int:
    """Longer than what `strike` has left."""
    time.sleep(0.2)
    return os.getpid()
