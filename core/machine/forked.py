"""Starting a function as a process by forking: what is imported already is shared, and not imported again.

Only for a process with one thread and no running event loop: a fork copies neither threads nor what they were doing.
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
    """The pid of a child that does `run` and exits with what it returns; 70 if it raises, which is shown on stderr.

    It begins with all that its parent has: descriptors, signal handlers, what was printed and not flushed, which is
    dropped. Raises OSError: there are no more processes.
    """
    if pid := os.fork():
        return pid
    code = _EXIT_BUG
    try:
        code = run()
    except SystemExit as leaving:  # a parser that dislikes its flags has said so
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # never back into the parent's frames


def fork_detached(run: Callable[[], int], *, stdout: int | None, stderr: int | None, close: Iterable[int] = ()) -> int:
    """As `fork`, but the child has its own process group, so that Ctrl-C reaches the parent alone, the default signal
    handlers, and on Linux is killed when the parent dies. Its standard output and error are the given descriptors
    (None: the parent's) and are flushed at its end; those in `close` it closes.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # objects made so far are not looked at by the child's collector, so their pages stay shared
    # A signal between fork and the reset of the handlers would run the parent's handler in the child, and be lost.
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
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading any longer
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
    """Points standard output and error of this process elsewhere (None: leaves them), standard input at nothing."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for target, descriptor in ((1, stdout), (2, stderr)):
        if descriptor is not None:
            os.dup2(descriptor, target)
