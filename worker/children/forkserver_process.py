"""Starts the forkserver of a worker: as an early fork of the worker, or as a new process.

The worker's program forks it first of all, after importing the libraries, but before it reads a secret, opens a
connection or starts a thread. Such a fork need not import the libraries again, which takes a second of CPU time with
LangGraph, and it shares their memory. A worker inside another program, or one whose forkserver has died, starts a new
process.
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
    """The part of `subprocess.Popen` that is needed."""

    def kill(self) -> None: ...
    def wait(self) -> int: ...


@dataclass(slots=True)
class _Forked:
    pid: int
    status: int | None = None  #: exit status; None: the process was not reaped yet

    def kill(self) -> None:
        if self.status is None:  # until it is reaped, no other process has its pid
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
    """Forks the forkserver, which then waits for the names of the modules to import. Call it at the very start of a
    program with one thread.

    It does nothing except on Linux: elsewhere such a fork is not safe, and a new process is started when needed.
    """
    global _ahead
    if sys.platform != "linux":
        return
    ours, theirs = socket.socketpair()
    with theirs:
        pid = fork_detached(partial(_become_forkserver, theirs, os.getpid()), stdout=2, stderr=None)
    _ahead = _Forked(pid), ours


def take_ahead() -> tuple[ForkserverProcess, socket.socket] | None:
    """The early fork and this end of its socket, if it lives and was not taken before; otherwise None. The process ends
    when the socket is closed."""
    global _ahead
    taken, _ahead = _ahead, None
    if taken is not None and not taken[0].alive:  # it may have run out of memory
        taken[0].wait()
        taken[1].close()
        return None
    return taken


def start() -> tuple[ForkserverProcess, socket.socket]:
    """Starts a new forkserver process. Returns it, and this end of its socket."""
    ours, theirs = socket.socketpair()
    environment = {**without_secrets(), "PYTHONPATH": python_path()}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", FORKSERVER_MODULE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what modules print at import must not mix with this program's output
            start_new_session=True,  # a Ctrl-C in the terminal must only reach the worker, which then drains
        )
    return process, ours


def _become_forkserver(control: socket.socket, worker: int) -> int:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != control.fileno():
            with suppress(OSError):  # the descriptor of the listing itself is closed already
                os.close(int(name))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a new process
    forget_secrets(FORKSERVER_MODULE)
    serve_worker(control, worker)
    return 0
