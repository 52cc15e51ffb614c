"""The forkserver: a process that imports the user's modules once and forks the child processes. Also `python -m`.

Each worker has one, which `forkserver_process` starts. It has a single thread and no event loop, so that forking it is
safe. A worker itself is never forked once it has an event loop, connections and keys. Only the forkserver reaps its
children, so that the pid of a child cannot belong to another process when it is killed. It ends with its worker, and
then kills its children and everything that they have started.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from core.errors import UserError
from core.machine.forked import fork
from core.machine.prctl import adopt_orphans, die_with_parent, signal_when_parent_ends
from core.machine.signal_socket import SignalSocket
from core.runtime.logs import log_as
from worker.authoring.modules import load_file
from worker.authoring.registry import HANDLERS
from worker.children.descendants import children, end_children, end_strangers
from worker.children.fork_renewal import noting_generators, renew_generators, renew_pools, threads_left
from worker.children.frames import encode, read_frame
from worker.children.guard import only_imports
from worker.projects.code import load_code

#: The name under which a script is imported, so that its `if __name__ == "__main__":` does not run again.
MAIN_NAME = "__mp_main__"

#: ru_maxrss counts KiB on Linux and bytes on macOS.
PEAK_UNITS_PER_MIB = 1 << 10 if sys.platform == "linux" else 1 << 20


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    serve_worker(control, os.getppid())


def serve_worker(control: socket.socket, worker: int) -> None:
    """Runs the forkserver of the process `worker`, its parent, until that closes `control` or ends."""
    only_imports()
    die_with_parent(worker)
    received = read_frame(control)
    if received is None:
        return
    with noting_generators():
        problem = _load(received[0])
    renew_pools()
    answer = {"failed": problem} if problem else {"ready": HANDLERS.names(), "threads": threads_left()}
    try:
        control.sendall(encode(answer))
    except ConnectionError:
        return  # its worker has ended
    if not problem:
        for name in received[0]["serves"]:  # here, so that the processes share it
            importlib.import_module(name)
        sys.__stdout__.flush()  # type: ignore[union-attr] # otherwise each child would print it again, in its first attempt
        # Imported objects are never freed. The collector must not touch, and so copy, their shared pages.
        gc.collect()
        gc.freeze()
        Forkserver(control, worker, received[0]["memory_mb"]).run()


class Forkserver:
    """Forks and kills children on request, reaps them, and reports how each one ended."""

    def __init__(self, control: socket.socket, worker: int, memory_mb: int) -> None:
        self._control = control
        self._worker = worker
        self._memory_mb = memory_mb
        self._pids: dict[int, int] = {}  #: pid -> the worker's number for that child
        self._of_modules = children()  #: processes that the user's modules have started at import
        self._sigterm_of_modules = signal.getsignal(signal.SIGTERM)
        self._signals = SignalSocket(signal.SIGCHLD, signal.SIGTERM)
        # From now on the death of the worker wakes this process and does not end it, so that it can kill others first.
        signal_when_parent_ends(signal.SIGTERM)
        adopt_orphans()

    def run(self) -> None:
        """Serves until the worker is gone, and then kills all remaining processes."""
        sources: list[socket.socket | SignalSocket] = [self._control, self._signals]
        while os.getppid() == self._worker:
            readable, _, _ = select.select(sources, [], [])
            if self._signals in readable:
                self._reap()
            if self._control in readable:
                received = read_frame(self._control)
                if received is None:
                    break
                self._obey(*received)
        for pid in self._pids:
            _kill(pid)
        for pid in self._pids:  # when this process ends, they must be gone too
            os.waitpid(pid, 0)
        end_children()

    def _obey(self, request: Mapping[str, Any], descriptors: list[int]) -> None:
        if "fork" in request:
            self._fork(request["fork"], (request["serves"], request["runs"]), *descriptors)
        else:
            for pid, number in self._pids.items():
                if number == request["kill"]:
                    _kill(pid)

    def _fork(self, number: int, what: tuple[str, int], connection: int, output: int) -> None:
        forkserver = os.getpid()
        try:
            pid = fork(partial(self._become_child, forkserver, what, connection, output))
        except OSError as error:
            self._tell({"exited": number, "status": None, "problem": f"no new process: {error.strerror}"})
        else:
            with suppress(OSError):  # the child does the same, and may be faster
                os.setpgid(pid, pid)
            self._pids[pid] = number
            self._tell({"forked": number, "pid": pid})
        os.close(connection)
        os.close(output)

    def _become_child(self, forkserver: int, what: tuple[str, int], connection: int, output: int) -> NoReturn:
        # In a group of its own, what it starts is killed with it, and a Ctrl-C in the terminal does not reach it.
        os.setpgid(0, 0)
        self._signals.close()
        self._control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._sigterm_of_modules or signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        die_with_parent(forkserver)
        adopt_orphans()
        channel = socket.socket(fileno=connection)
        if sys.platform != "linux":
            threading.Thread(target=_die_with_connection, args=(channel,), daemon=True).start()
        _renew_streams()
        renew_generators()
        serves, runs_at_once = what
        importlib.import_module(serves).serve(channel, HANDLERS, self._memory_mb, runs_at_once)
        os._exit(0)

    def _reap(self) -> None:
        self._signals.take()
        exited = []
        for pid, number in list(self._pids.items()):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                del self._pids[pid]
                # This kills what it left behind. The number of a group is not reused while the group has members.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                peak_mb = usage.ru_maxrss // PEAK_UNITS_PER_MIB
                exited.append({"exited": number, "status": os.waitstatus_to_exitcode(status), "peak_mb": peak_mb})
        end_strangers({*self._pids, *self._of_modules})  # descendants outside of its group
        for message in exited:
            self._tell(message)

    def _tell(self, message: Mapping[str, Any]) -> None:
        with suppress(ConnectionError):  # the worker is gone, which `run` notices as well
            self._control.sendall(encode(message))


def _load(setup: Mapping[str, Any]) -> str:
    """Imports what the worker has imported. Returns what went wrong; empty if nothing did."""
    _restore(setup["pythonpath"])
    os.environ.update(setup["variables"])
    log_as(setup["logging"])
    # A process that multiprocessing spawns imports this as its program; the worker's program must not run there.
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        load_code(setup["modules"])
        if setup["main"]:
            main = load_file(Path(setup["main"]), MAIN_NAME)
            main.__spec__ = None  # otherwise it is searched for by a name that does not exist
            # It needs both names, since importing multiprocessing binds MAIN_NAME to what is __main__ at that time.
            sys.modules["__main__"] = sys.modules[MAIN_NAME] = main
        for name in setup["registered_in"]:
            importlib.import_module(name)
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"importing the handlers for a child process raised {type(error).__name__}: {error}"
    return ""


def _restore(pythonpath: str | None) -> None:
    """Restores the worker's PYTHONPATH, which was changed only so that this process finds the same modules."""
    if pythonpath is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = pythonpath


def _renew_streams() -> None:
    """Makes new standard streams: the old ones may have been made for files, and their descriptors are pipes now."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, f"__{name}__")
        old.reconfigure(line_buffering=True)  # a module may still refer to it
        new = os.fdopen(descriptor, "w", 1, old.encoding, old.errors, closefd=False)
        setattr(sys, f"__{name}__", new)
        if getattr(sys, name) is old:  # otherwise a module has replaced it
            setattr(sys, name, new)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):  # it has no group yet, or is dead and about to be reaped
            kill(pid, signal.SIGKILL)


def _die_with_connection(connection: socket.socket) -> None:
    """Ends this process when the other end of `connection` is closed, on systems without a signal for that."""
    hung_up = select.poll()
    hung_up.register(connection, 0)
    hung_up.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
