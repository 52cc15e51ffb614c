"""The worker's side of its child processes: one forkserver, and the children that it has forked, which are reused."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import orjson

from core.errors import BadTask, ConfigError, WorldError
from core.event_types import EventType
from core.runtime.logs import log_setup
from worker.authoring.registry import Handlers
from worker.children import forkserver_process
from worker.children.forkserver_process import ForkserverProcess
from worker.children.frames import FRAME_LIMIT_BYTES, Frames, encode
from worker.children.guard import refuse_in_child
from worker.children.output import ChildOutput

__all__ = ["ChildDied", "ChildPool", "ChildProcess"]

#: A child is replaced after this many runs, so that leaks in user code stay bounded.
RUNS_PER_CHILD = 1000

#: Seconds that the forkserver may take to import the user's modules.
IMPORT_TIMEOUT_S = 60.0

#: Seconds that the forkserver may take to end with all its children.
CLOSE_TIMEOUT_S = 5.0

READ_BYTES = 64 * 1024

#: Number of threads started at import that a message names.
THREADS_NAMED = 5

PROGRESS, EVENT = b'{"progress":', b'{"event":'

log = logging.getLogger(__name__)


class ChildDied(WorldError):
    """A child ended during a run. The message names the exit status or the signal."""

    def __init__(self, how: str, peak_mb: int = 0) -> None:
        super().__init__(how)
        self.peak_mb = peak_mb  #: its highest memory use, including imports; 0: unknown


class ChildProcess(asyncio.Protocol):
    """One child process. It runs one attempt at a time."""

    def __init__(self, number: int, kill: Callable[[int], None], output: ChildOutput) -> None:
        self.pid: int | None = None  #: None until the forkserver has reported it
        self.runs = 0
        self.gone = False
        self.why_replace = ""  #: why it should not run another attempt
        self._number = number
        self._kill = kill
        self._output = output
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._report: Callable[[bytes], None] | None = None
        self._tell: Callable[[dict[str, Any]], None] | None = None

    async def run(
        self,
        task_id: str,
        request: Mapping[str, Any],
        report: Callable[[bytes], None],
        tell: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """The child's answer to `request`, which has one of the fields `result`, `error` and `spawn`.

        `report` is called with each progress report, as JSON; `tell` with the fields of each event. Raises
        ChildDied; BadTask: the request is too large.
        """
        if self.gone or self._transport is None:
            raise ChildDied("its process ended before the run began")
        self.runs += 1
        self._report, self._tell = report, tell
        self._answer = asyncio.get_running_loop().create_future()
        self._output.begin(task_id, tell and partial(_tell_output, tell))
        try:
            self._transport.write(_request_frame({"run": self.runs, **request}))
            return await self._answer
        except asyncio.CancelledError:
            self.kill()  # nobody waits for its outcome any more
            self.retire()
            raise
        finally:
            self._answer = self._report = None
            self._output.end()
            self._tell = None

    @property
    def printed(self) -> bytes:
        """The end of what the run has printed so far."""
        return self._output.tail

    def cancel(self) -> None:
        """Asks the run to stop. User code may ignore that."""
        if self._transport is not None:
            self._transport.write(encode({"cancel": self.runs}))

    def kill(self) -> None:
        """Kills the process. Its current run raises ChildDied once the process is gone."""
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
            bodies = self._frames.feed(data)
        except ValueError:
            log.warning("a child sent an unreadable frame", extra={"action": "child_unreadable", "pid": self.pid})
            self.kill()
            return
        for body in bodies:
            if body.startswith(PROGRESS):
                self._on_progress(body)
            elif body.startswith(EVENT):
                self._on_event(body)
            else:
                self._on_done(orjson.loads(body))

    def _on_progress(self, body: bytes) -> None:
        # The report is not parsed here, since a later one replaces most reports before anybody reads them.
        if self._report is not None and body.startswith(b"%b%d," % (PROGRESS, self.runs)):
            self._report(body)

    def _on_event(self, body: bytes) -> None:
        if self._tell is not None and body.startswith(b"%b%d," % (EVENT, self.runs)):
            fields = orjson.loads(body)
            self._tell({name: fields.get(name) for name in ("type", "node_id", "data")})

    def _on_done(self, message: dict[str, Any]) -> None:
        if self._answer is not None and not self._answer.done() and message.get("done") == self.runs:
            self.why_replace = message.get("replace", "")
            self._answer.set_result(message)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.gone:
            self.kill()  # it may live on without its socket; then the forkserver reports how it ended

    def ended(self, how: str, peak_mb: int = 0) -> None:
        self.gone = True
        if self._transport is not None:
            self._transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ChildDied(how, peak_mb))
        self._output.close()


class ChildPool:
    """Starts the forkserver when it is first needed, and hands out children."""

    def __init__(self, handlers: Handlers, modules: Sequence[str], memory_mb: int) -> None:
        """`modules`: names and files, as for `load_modules`; they are imported before the modules of `handlers`.
        `memory_mb`: what an attempt may allocate, unless its handler has a limit of its own.

        Raises ConfigError in a process that only imports handlers.
        """
        refuse_in_child("a worker")
        self._handlers = handlers
        self._modules = list(modules)
        self._memory_mb = memory_mb
        self._process: ForkserverProcess | None = None
        self._control: socket.socket | None = None
        self._frames = Frames()
        self._ready: asyncio.Future[None] | None = None
        self._children: dict[int, ChildProcess] = {}
        self._idle: list[ChildProcess] = []
        self._forks = 0
        self.hint = ""  #: why a function may wait forever; empty: no reason is known
        self._logging = log_setup()  #: the log configuration of the forkserver, and so of all children
        self._hung_up = False  #: whether the forkserver was told to end with all its children

    async def start(self) -> None:
        """Returns when children can be forked. Raises ConfigError when the user's modules cannot be imported there."""
        if self._ready is None:
            self._start_forkserver()
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

    async def acquire(self) -> ChildProcess:
        """An idle child, or a new one; return it with `release`. Raises ConfigError as `start` does."""
        while self._idle:
            child = self._idle.pop()
            if not child.gone:
                return child
        await self.start()
        return await self._fork()

    def release(self, child: ChildProcess) -> None:
        if child.gone:
            return
        if child.why_replace or child.runs >= RUNS_PER_CHILD:
            log.debug(
                "a child is replaced: %s", child.why_replace or "its runs are over", extra={"action": "child_replaced"}
            )
            child.retire()
        else:
            self._idle.append(child)

    async def close(self) -> None:
        """Kills all children, and returns when they are gone."""
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
            "main": os.path.abspath(main) if main else None,
            "pythonpath": os.environ.get("PYTHONPATH"),
            "memory_mb": self._memory_mb,
            "logging": self._logging,
        }

    async def _fork(self) -> ChildProcess:
        assert self._control is not None
        self._forks += 1
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        shown = ChildOutput(read_end, logs_json=self._logging["as_json"])
        child = ChildProcess(self._forks, self._kill, shown)
        self._children[self._forks] = child
        with theirs, os.fdopen(write_end, "wb") as output:
            self._ask({"fork": self._forks}, [theirs.fileno(), output.fileno()])
        await asyncio.get_running_loop().create_unix_connection(lambda: child, sock=ours)
        return child

    def _kill(self, number: int) -> None:
        if number in self._children and not self._hung_up:  # otherwise all of them are already ending
            self._ask({"kill": number}, [])

    def _ask(self, request: Mapping[str, int], descriptors: list[int]) -> None:
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
            self._children[message["forked"]].pid = message["pid"]
        elif "exited" in message:
            child = self._children.pop(message["exited"])
            child.ended(message.get("problem") or _how_it_ended(message["status"]), message.get("peak_mb", 0))
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
        children, self._children, self._idle = self._children, {}, []
        for child in children.values():
            child.ended(why)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(ChildDied(why))
            self._ready.exception()  # marks it as retrieved, since perhaps nobody waits for it
        self._ready = None


def _tell_output(tell: Callable[[dict[str, Any]], None], text: str) -> None:
    tell({"type": EventType.TASK_OUTPUT, "node_id": None, "data": {"text": text}})


def _request_frame(request: Mapping[str, Any]) -> bytes:
    frame = encode(request)
    if len(frame) > FRAME_LIMIT_BYTES:
        raise BadTask(
            f"its payload and its children's results have {len(frame)} bytes, over {FRAME_LIMIT_BYTES}: let children"
            " return less, or a reference, or make this handler an async def, which runs in the worker"
        )
    return frame


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process exited with status {status}"
