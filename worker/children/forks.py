"""The worker's side of its forkserver, and what all processes that it forks have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import orjson

from core.errors import ConfigError, WorldError
from core.module_names import module_name
from core.runtime.logs import log_setup
from worker.authoring.registry import Handlers
from worker.children import forkserver_process
from worker.children.forkserver_process import ForkserverProcess
from worker.children.frames import Frames, encode
from worker.children.guard import refuse_in_child
from worker.children.output import ChildOutput

__all__ = ["ChildDied", "Forked", "Forks", "NoProcess"]

#: Seconds that the forkserver may take to import the user's modules.
IMPORT_TIMEOUT_S = 60.0

#: Seconds that the forkserver may take to end with all its children.
CLOSE_TIMEOUT_S = 5.0

READ_BYTES = 64 * 1024

#: The modules whose `serve` the processes for each kind of handler run.
SERVES = {"sync": module_name("worker.children.main"), "graph": module_name("worker.hosts.main")}

#: Number of threads started at import that a message names.
THREADS_NAMED = 5

log = logging.getLogger(__name__)


class ChildDied(WorldError):
    """A child ended during a run. The message names the exit status or the signal."""

    def __init__(self, how: str, peak_mb: int = 0) -> None:
        super().__init__(how)
        self.peak_mb = peak_mb  #: its highest memory use, including imports; 0: unknown


class NoProcess(ChildDied):
    """The machine has no process, memory or descriptor for another child: no fault of the task."""


class Forked(asyncio.Protocol):
    """One process that the forkserver has forked, and its socket."""

    def __init__(self, number: int, kill: Callable[[int], None], output: ChildOutput) -> None:
        self.pid: int | None = None  #: None until the forkserver has reported it
        self.gone = False
        self.why_replace = ""  #: why it should not run another attempt
        self.output = output
        self._number = number
        self._kill = kill
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def kill(self) -> None:
        """Kills the process. What it runs learns of that once the process is gone."""
        self._kill(self._number)

    def retire(self) -> None:
        """Closes the connection. The process ends by itself when it next reads from it."""
        self.gone = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self.on_body(body)
        except ValueError:
            log.warning("a child sent an unreadable frame", extra={"action": "child_unreadable", "pid": self.pid})
            self.kill()

    def on_body(self, body: bytes) -> None:
        """Handles a frame of the process. Raises ValueError when it is unreadable."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        if not self.gone:
            self.kill()  # it may live on without its socket; then the forkserver reports how it ended

    def ended(self, death: ChildDied) -> None:
        """Notes that the process is gone."""
        self.gone = True
        if self._transport is not None:
            self._transport.abort()
        self.output.close()


F = TypeVar("F", bound=Forked)


class Forks:
    """Starts the forkserver when it is first needed, has it fork processes, and notes how they end."""

    def __init__(
        self, handlers: Handlers, modules: Sequence[str], memory_mb: int, runs_at_once: int = 1, gateway_url: str = ""
    ) -> None:
        """`modules`: names and files, as for `load_code`; they are imported before the modules of `handlers`.
        `memory_mb`: what an attempt, or all runs of a shared host together, may allocate, unless a handler has a limit
        of its own. `runs_at_once`: how many runs a shared process may have. `gateway_url`: told user code as
        AGENT_GATEWAY_URL, wherever the setting was found.

        Raises ConfigError in a process that only imports handlers.
        """
        refuse_in_child("a worker")
        self._handlers = handlers
        self._modules = list(modules)
        self._memory_mb = memory_mb
        self._runs_at_once = runs_at_once
        self._gateway_url = gateway_url
        self._process: ForkserverProcess | None = None
        self._control: socket.socket | None = None
        self._frames = Frames()
        self._ready: asyncio.Future[None] | None = None
        self._living: dict[int, Forked] = {}
        self._count = 0
        self.hint = ""  #: why a function may wait forever; empty: no reason is known
        self._logging = log_setup()  #: the log configuration of the forkserver, and so of all children
        self._hung_up = False  #: whether the forkserver was told to end with all its children

    async def start(self) -> None:
        """Returns when processes can be forked. Raises ConfigError when the user's modules cannot be imported there;
        NoProcess."""
        if self._ready is None:
            try:
                self._start_forkserver()
            except OSError as error:
                raise NoProcess(f"no process that forks children: {error.strerror}") from error
        ready = self._ready
        assert ready is not None
        # Several attempts may wait for the same import, and the cancellation of one must not cancel it for the others.
        try:
            await asyncio.wait_for(asyncio.shield(ready), IMPORT_TIMEOUT_S)
        except TimeoutError:
            raise ConfigError(
                f"importing the modules of the handlers in a child process took over {IMPORT_TIMEOUT_S:.0f} s."
                ' Put what runs at import below `if __name__ == "__main__":`.'
            ) from None

    async def spare(self) -> None:
        """Ends an early fork of the forkserver, since no child will be needed as far as is known."""
        if (ahead := forkserver_process.take_ahead()) is not None:
            process, control = ahead
            control.close()
            await asyncio.to_thread(process.wait)

    async def fork(
        self,
        made: Callable[[int, Callable[[int], None], ChildOutput], F],
        kind: Literal["sync", "graph"],
        *,
        shared: bool = False,
    ) -> F:
        """A new process, for handlers of this kind; if `shared`, for several runs at once. Raises ConfigError as
        `start` does; NoProcess."""
        await self.start()
        assert self._control is not None
        self._count += 1
        number = self._count
        try:
            ours, theirs, shown, write_end = self._ends()
        except OSError as error:
            raise NoProcess(f"no new process: {error.strerror}") from error
        forked = self._living[number] = made(number, self._kill, shown)
        with theirs, os.fdopen(write_end, "wb") as output:
            runs = self._runs_at_once if shared else 1
            self._ask({"fork": number, "serves": SERVES[kind], "runs": runs}, [theirs.fileno(), output.fileno()])
        await asyncio.get_running_loop().create_unix_connection(lambda: forked, sock=ours)
        return forked

    async def close(self) -> None:
        """Kills all processes, and returns when they are gone."""
        process, control = self._process, self._control
        if process is None or control is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(control)
        self._hung_up = True
        control.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while await loop.sock_recv(control, READ_BYTES):
                    continue
        except (TimeoutError, ConnectionError):
            log.warning("the process that forks children had to be killed", extra={"action": "forkserver_killed"})
        self._forkserver_gone("its worker ended")

    def _ends(self) -> tuple[socket.socket, socket.socket, ChildOutput, int]:
        """Both ends of a socket and of a pipe, of which this process keeps the first."""
        ours, theirs = socket.socketpair()
        try:
            read_end, write_end = os.pipe()
        except OSError:
            ours.close()
            theirs.close()
            raise
        return ours, theirs, ChildOutput(read_end, logs_json=self._logging["as_json"]), write_end

    def _start_forkserver(self) -> None:
        self._logging = log_setup()
        setup = encode(self._setup())
        self._process, self._control = forkserver_process.take_ahead() or forkserver_process.start()
        self._frames, self._hung_up = Frames(), False
        self._control.sendall(setup)
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control, self._on_readable)
        self._ready = loop.create_future()

    def _setup(self) -> dict[str, Any]:
        main_module = sys.modules["__main__"]
        names = {handler.module for handler in self._handlers if handler.kind != "async"}
        main = None
        if "__main__" in names:
            names.remove("__main__")
            spec = getattr(main_module, "__spec__", None)
            if spec is not None:  # python -m package.module: by its real name it does not start anything
                names.add(spec.name)
            else:
                main = getattr(main_module, "__file__", None)
                if main is None:
                    raise ConfigError("handlers typed in at a prompt cannot run in a child process: put them in a file")
        return {
            "modules": self._modules,
            "registered_in": sorted(names),
            "serves": [SERVES[kind] for kind in SERVES if any(handler.kind == kind for handler in self._handlers)],
            "main": os.path.abspath(main) if main else None,
            "pythonpath": os.environ.get("PYTHONPATH"),
            "memory_mb": self._memory_mb,
            "variables": {"AGENT_GATEWAY_URL": self._gateway_url} if self._gateway_url else {},
            "logging": self._logging,
        }

    def _kill(self, number: int) -> None:
        if number in self._living and not self._hung_up:  # otherwise all of them are already ending
            self._ask({"kill": number}, [])

    def _ask(self, request: Mapping[str, Any], descriptors: list[int]) -> None:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [encode(request)], descriptors)
        except OSError as error:  # it is dead, or so stuck that its socket is full
            self._forkserver_gone(f"the process that forks children takes no requests ({error.strerror})")

    def _on_readable(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._forkserver_gone("the process that forks children died")
            return
        for body in self._frames.feed(data):
            self._on_message(orjson.loads(body))

    def _on_message(self, message: Mapping[str, Any]) -> None:
        if "forked" in message:
            self._living[message["forked"]].pid = message["pid"]
        elif "exited" in message:
            self._living.pop(message["exited"]).ended(_death(message))
        elif self._ready is not None and not self._ready.done():
            if "ready" in message:
                self._note_threads(message["threads"])
                self._ready.set_result(None)
            else:
                self._ready.set_exception(ConfigError(message["failed"]))

    def _note_threads(self, names: list[str]) -> None:
        if names:
            listed = ", ".join(names[:THREADS_NAMED]) + (", ..." if len(names) > THREADS_NAMED else "")
            self.hint = (
                f"modules of its handlers have started threads at import ({listed}), and the child processes in which"
                " functions and graphs run have none of them, so waiting for one never ends. Start them in the handler"
            )
            log.warning("%s", self.hint, extra={"action": "threads_at_import"})

    def _forkserver_gone(self, why: str) -> None:
        """Forgets the forkserver and its children, which end with it. The next attempt that needs a child starts
        another forkserver. That needs no restart policy, since each death costs attempts, and a task has a limited
        number."""
        if self._control is None or self._process is None:
            return
        if not self._hung_up:  # otherwise it was asked to end
            log.warning(
                "there are no child processes until the next one is needed: %s",
                why,
                extra={"action": "forkserver_gone"},
            )
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._process = self._control = None
        living, self._living = self._living, {}
        for forked in living.values():
            forked.ended(ChildDied(why))
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ChildDied(why))
            self._ready.exception()  # marks it as retrieved, since perhaps nobody waits for it
        self._ready = None


def _death(message: Mapping[str, Any]) -> ChildDied:
    if "problem" in message:
        return NoProcess(message["problem"])
    return ChildDied(_how_it_ended(message["status"]), message["peak_mb"])


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process exited with status {status}"
