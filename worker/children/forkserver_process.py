"""How a worker comes by its forkserver: a fork of itself from before it knew anything, or a process started anew.

The program of a worker forks it ahead of all else, when it has imported the libraries and has neither read a secret nor
opened a connection nor started a thread. It need not import them again then, which takes a second of CPU time with
LangGraph, and shares their memory. A worker inside another program, and one whose forkserver has died, starts it anew.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from core.machine.forked import fork_detached
from core.machine.fresh_interpreter import python_path
from worker.children.environment import forget_secrets, without_secrets
from worker.children.forkserver import serve_worker
from worker.children.guard import FORKSERVER_MODULE

__all__ = ["ForkserverProcess", "fork_ahead", "start", "take_ahead"]


class ForkserverProcess(Protocol):
    """What of `subprocess.Popen` is needed."""

    def kill(self) -> None: ...
    def wait(self) -> int: ...


@dataclass(slots=True)
class _Forked:
    pid: int
    status: int | None = None  #: None: not waited for

    def kill(self) -> None:
        if self.status is None:  # until then its number is nobody else's
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    @property
    def alive(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


_ahead: tuple[_Forked, socket.socket] | None = None


def fork_ahead() -> None:
    """Forks the forkserver, which waits to be told what to import. Call it first thing in a program of one thread.

    Linux only: elsewhere a fork that does not become another program is not safe, and it is started anew when needed.
    """
    global _ahead
    if sys.platform != "linux":
        return
    ours, theirs = socket.socketpair()
    with theirs:
        pid = fork_detached(partial(_become_forkserver, theirs, os.getpid()), stdout=2, stderr=None)
    _ahead = _Forked(pid), ours


def take_ahead() -> tuple[ForkserverProcess, socket.socket] | None:
    """The one that was forked ahead, once, if it lives: the process, and this end of its socket. It ends when that is
    closed."""
    global _ahead
    taken, _ahead = _ahead, None
    if taken is not None and not taken[0].alive:  # for want of memory, say
        taken[0].wait()
        taken[1].close()
        return None
    return taken


def start() -> tuple[ForkserverProcess, socket.socket]:
    """One that is started anew."""
    ours, theirs = socket.socketpair()
    environment = {**without_secrets(), "PYTHONPATH": python_path()}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", FORKSERVER_MODULE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what modules print at import is no result of ours
            start_new_session=True,  # a Ctrl-C in the terminal is for the worker, which then drains
        )
    return process, ours


def _become_forkserver(control: socket.socket, worker: int) -> int:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != control.fileno():
            with suppress(OSError):  # that of the list itself
                os.close(int(name))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a process that was started anew
    forget_secrets(FORKSERVER_MODULE)
    serve_worker(control, worker)
    return 0
