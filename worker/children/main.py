"""What a child process does: it runs one attempt after the other, in its main thread, until it is killed.

While a handler runs, the socket is read only when the handler asks `ctx.cancelled`, so that no second thread is needed.
A handler that never asks, or holds the interpreter lock in C code, is killed from outside.
"""

from __future__ import annotations

import os
import socket
import threading
from contextvars import copy_context
from time import monotonic
from typing import Any, NoReturn

import orjson
from msgspec.structs import asdict

from core.errors import BadTask
from core.json_values import result_json
from worker.authoring.context import Context, Progress, Spawn, enter
from worker.authoring.registry import Handler, Handlers
from worker.children.descendants import end_children
from worker.children.frames import FRAME_LIMIT_BYTES, Frames, wrap
from worker.children.limits import Limits
from worker.children.outcome import failure, out_of_memory, refuse_unrun, spawn_json
from worker.children.requests import context_of, progress_fields
from worker.children.surroundings import Surroundings

__all__ = ["serve"]

READ_BYTES = 256 * 1024

#: An attempt that took less than this, in seconds, cannot have started a process.
START_OF_A_PROCESS_S = 0.0001

#: The number of the run between two runs; the first run has the number 1.
NO_RUN = 0


class Channel:
    """This child's end of its socket. Sending and polling are safe from any thread of the handler."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = Frames()
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._run = NO_RUN

    def receive(self) -> dict[str, Any]:
        """The next message. Blocks until it comes, and ends the process when the worker is gone."""
        while not self._waiting:
            self._read(0)
        return self._waiting.pop(0)

    def begin(self, run: int) -> None:
        """Notes that `run` is the current run, to which messages belong from now on."""
        with self._lock:
            self._run = run

    def cancelled(self, run: int) -> bool:
        """Whether the worker has cancelled `run`, or `run` is over. Does not block."""
        with self._lock:
            if run != self._run:
                return True  # a thread has outlived its run, and the messages are for another one
            try:
                self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            asked = any(message.get("cancel") == run for message in self._waiting)
            self._waiting = [message for message in self._waiting if "run" in message]
            return asked

    def send(self, body: bytes) -> None:
        with self._lock:
            self._connection.sendall(wrap(body))

    def _read(self, flags: int) -> None:
        try:
            data = self._connection.recv(READ_BYTES, flags)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(0)  # the worker has retired this child, or died
        self._waiting += [orjson.loads(body) for body in self._frames.feed(data)]


def serve(connection: socket.socket, handlers: Handlers, memory_mb: int, runs_at_once: int) -> NoReturn:
    """Runs the attempts that come. Never returns: it ends the process when the other end of `connection` is closed.

    `memory_mb`: what an attempt may allocate, unless its handler has a limit of its own. `runs_at_once`: only hosts
    have more than one.
    """
    channel = Channel(connection)
    surroundings = Surroundings()
    limits = Limits(memory_mb)
    while True:
        message = channel.receive()
        if "run" in message:  # otherwise it is a cancellation that came too late
            began_s = monotonic()
            channel.begin(message["run"])
            reply, failed = _attempt(message, channel, handlers, limits, surroundings)
            channel.begin(NO_RUN)
            took_s = monotonic() - began_s
            left_processes = took_s >= START_OF_A_PROCESS_S and end_children()
            why = "it left processes behind" if left_processes else surroundings.spoilt
            why = why or limits.why_replace(took_s, failed)
            channel.send(reply[:-1] + b',"replace":%b}' % orjson.dumps(why) if why else reply)


def _attempt(
    message: dict[str, Any],
    channel: Channel,
    handlers: Handlers,
    limits: Limits,
    surroundings: Surroundings,
) -> tuple[bytes, bool]:
    """Runs one attempt. Returns the reply, and whether it reports a failure."""
    run = message["run"]
    context = _context(message, channel)
    try:
        handler = handlers.get(context.task_type)
        limits.allow_memory(handler.memory_mb)
        with surroundings:  # at its end, printed text is flushed, before the reply is sent
            try:
                # Each attempt gets a copy, so that it does not see context variables that another attempt has set.
                value = copy_context().run(_call, handler, message["task"]["payload"], context)
            finally:
                limits.lift()
        return _reply(run, value), False
    except BaseException as error:  # SystemExit and KeyboardInterrupt of user code fail the attempt as well
        problem = failure(error, context.attempt)
        if issubclass(type(error), MemoryError):
            limits.exhausted = True
            problem = out_of_memory(problem, limits.allowed_mb)
        return orjson.dumps({"done": run, "error": asdict(problem)}), True


def _call(handler: Handler, payload: Any, context: Context) -> Any:
    enter(context)
    value = handler.function(*handler.arguments(payload, context))
    refuse_unrun(handler.task_type, value)
    return value


def _reply(run: int, value: Any) -> bytes:
    if not isinstance(value, Spawn):
        return b'{"done":%d,"result":%b}' % (run, result_json(value))
    reply = b'{"done":%d,"spawn":%b}' % (run, spawn_json(value))
    if len(reply) > FRAME_LIMIT_BYTES:
        raise BadTask(f"spawn has {len(reply)} bytes, over {FRAME_LIMIT_BYTES}: give the children smaller payloads")
    return reply


def _context(message: dict[str, Any], channel: Channel) -> Context:
    run = message["run"]

    def report(progress: Progress) -> None:
        channel.send(orjson.dumps({"progress": run, **progress_fields(progress)}))

    def tell(fields: dict[str, Any]) -> None:
        channel.send(orjson.dumps({"event": run, **fields}))

    tell_or_not = tell if message["watched"] else None
    return context_of(message, report, tell_or_not, lambda: channel.cancelled(run))
