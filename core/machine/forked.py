"""Runs a function as a process by forking, so that imported modules are shared and need not be imported again.

Use it only in a process with one thread and no running event loop, since a fork does not copy threads.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial

from core.machine.prctl import die_with_parent

__all__ = ["fork", "fork_detached", "redirect"]

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_EXIT_BUG = 70


def fork(run: Callable[[], int]) -> int:
    """Forks a child that calls `run` and exits with the code that it returns, or 70 with a traceback on stderr if it
    raises. Returns the child's pid.

    The child begins with the parent's descriptors and signal handlers. Text that the parent has printed but not flushed
    is dropped in the child. Raises OSError when there are too many processes.
    """
    if pid := os.fork():
        return pid
    code = _EXIT_BUG
    try:
        code = run()
    except SystemExit as leaving:  # for instance from a parser, which has printed why
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # the child must never return into the parent's frames


def fork_detached(run: Callable[[], int], *, stdout: int | None, stderr: int | None, close: Iterable[int] = ()) -> int:
    """Forks as `fork` does. The child has the default signal handlers and a process group of its own, so that Ctrl-C
    reaches only the parent. On Linux it is killed when the parent dies. Its standard output and error are the given
    descriptors (None: the parent's), and are flushed at its end. It closes the descriptors in `close`.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # the child's collector then leaves existing objects alone, so their pages stay shared
    # Before its handlers are reset, the child would run the parent's handler for a signal, and lose the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        return fork(partial(_run_detached, run, parent, stdout, stderr, close))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def _run_detached(
    run: Callable[[], int], parent: int, stdout: int | None, stderr: int | None, close: Iterable[int]
) -> int:
    try:
        _detach(parent, stdout, stderr, close)
        return run()
    finally:
        with contextlib.suppress(OSError, ValueError):  # perhaps nobody reads it any more
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()


def _detach(parent: int, stdout: int | None, stderr: int | None, close: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)
    die_with_parent(parent)
    redirect(stdout, stderr)
    for descriptor in close:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def redirect(stdout: int | None, stderr: int | None) -> None:
    """Redirects standard output and error of this process to the given descriptors (None: they stay as they are), and
    standard input to nothing."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for target, descriptor in ((1, stdout), (2, stderr)):
        if descriptor is not None:
            os.dup2(descriptor, target)
