"""Starting a function as a process by forking: what is imported already is shared, and not imported again.

Only for a process with one thread and no running event loop: a fork copies neither threads nor what they were doing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable

__all__ = ["fork", "redirect"]

_PR_SET_PDEATHSIG = 1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_EXIT_BUG = 70


def fork(run: Callable[[], int], *, stdout: int | None, stderr: int | None, close: Iterable[int] = ()) -> int:
    """The pid of a child that does `run` and exits with what it returns.

    The child has its own process group, so that Ctrl-C reaches the parent alone, and on Linux is killed when the parent
    dies. Its standard output and error are the given descriptors (None: the parent's); those in `close` it closes.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # objects made so far are not looked at by the child's collector, so their pages stay shared
    # A signal between fork and the reset of the handlers would run the parent's handler in the child, and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        pid = os.fork()
    except OSError:  # no more processes
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        return pid
    code = _EXIT_BUG
    try:
        _detach(parent, stdout, stderr, close)
        code = run()
    except SystemExit as leaving:  # a parser that dislikes its flags has said so
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading any longer
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never back into the parent's frames


def _detach(parent: int, stdout: int | None, stderr: int | None, close: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before the kernel was told
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
