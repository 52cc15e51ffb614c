"""The process from which the agents of a test are forked: `python -m core.chaos.forkserver FD`.

It has imported the tiers, and has one thread and no event loop. Over the socket FD it gets requests, in lines of JSON,
to fork an agent with given arguments and environment, and it reports how each one ended. When the other end is closed
it kills all of them.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from core.launch.preload import preload
from core.machine.forked import fork_detached
from core.machine.signal_socket import SignalSocket
from core.module_names import module_name
from core.roles import Role


class Forkserver:
    """Forks agents on request, reaps them, and reports how they ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._living: set[int] = set()
        self._signals = SignalSocket(signal.SIGCHLD)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is meant for the parent

    def run(self) -> None:
        """Serves until the other end is closed, and then kills everything that was forked."""
        self._tell({"ready": os.getpid()})
        sources: list[socket.socket | SignalSocket] = [self._control, self._signals]
        orders = self._control.makefile("rb")  # one order at a time, so nothing is left in its buffer
        while True:
            readable, _, _ = select.select(sources, [], [])
            if self._signals in readable:
                self._reap()
            if self._control in readable:
                line = orders.readline()
                if not line:
                    break
                self._start(json.loads(line))
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)
        for pid in self._living:
            os.waitpid(pid, 0)

    def _start(self, order: dict[str, Any]) -> None:
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        ours = [self._control.fileno(), *self._signals.descriptors, log]
        pid = fork_detached(partial(_run, order), stdout=log, stderr=log, close=ours)
        os.close(log)
        self._living.add(pid)
        self._tell({"started": pid})

    def _reap(self) -> None:
        self._signals.take()
        for pid in sorted(self._living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._living.discard(pid)
                self._tell({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the next read will notice that the other end is closed
            self._control.sendall(json.dumps(message).encode() + b"\n")


def _run(order: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["directory"])
    return int(import_module(order["module"]).main(order["argv"]))


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    preload((Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER))
    import_module(module_name("core.chaos.work"))  # the handlers of a test are imported by `--import`
    gc.collect()
    Forkserver(control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
