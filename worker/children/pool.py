"""The children in which functions run, one attempt at a time, and which are reused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from core.errors import BadTask
from core.event_types import EventType
from worker.children.forks import ChildDied, Forked, Forks
from worker.children.frames import FRAME_LIMIT_BYTES, encode
from worker.children.output import ChildOutput

__all__ = ["ChildPool", "ChildProcess", "output_event"]

#: A child is replaced after this many runs, so that leaks in user code stay bounded.
RUNS_PER_CHILD = 1000

PROGRESS, EVENT = b'{"progress":', b'{"event":'

log = logging.getLogger(__name__)


class ChildProcess(Forked):
    """One child process. It runs one attempt at a time."""

    def __init__(self, number: int, kill: Callable[[int], None], output: ChildOutput) -> None:
        super().__init__(number, kill, output)
        self.runs = 0
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
        self.output.begin(task_id, tell and partial(_tell_output, tell))
        try:
            self._transport.write(_request_frame({"run": self.runs, **request}))
            return await self._answer
        except asyncio.CancelledError:
            self.kill()  # nobody waits for its outcome any more
            self.retire()
            raise
        finally:
            self._answer = self._report = None
            self.output.end()
            self._tell = None

    @property
    def printed(self) -> bytes:
        """The end of what the run has printed so far."""
        return self.output.tail

    def cancel(self) -> None:
        """Asks the run to stop. User code may ignore that."""
        if self._transport is not None:
            self._transport.write(encode({"cancel": self.runs}))

    def on_body(self, body: bytes) -> None:
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

    def ended(self, death: ChildDied) -> None:
        super().ended(death)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(death)


class ChildPool:
    """Hands out children, which `forks` makes."""

    def __init__(self, forks: Forks) -> None:
        self._forks = forks
        self._idle: list[ChildProcess] = []

    async def acquire(self) -> ChildProcess:
        """An idle child, or a new one; return it with `release`. Raises ConfigError as `Forks.start` does, and
        NoProcess."""
        while self._idle:
            child = self._idle.pop()
            if not child.gone:
                return child
        return await self._forks.fork(ChildProcess, "sync")

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


def output_event(text: str) -> dict[str, Any]:
    """The fields of the event that tells of lines which an attempt has printed."""
    return {"type": EventType.TASK_OUTPUT, "node_id": None, "data": {"text": text}}


def _tell_output(tell: Callable[[dict[str, Any]], None], text: str) -> None:
    tell(output_event(text))


def _request_frame(request: Mapping[str, Any]) -> bytes:
    frame = encode(request)
    if len(frame) > FRAME_LIMIT_BYTES:
        raise BadTask(
            f"its payload and its children's results have {len(frame)} bytes, over {FRAME_LIMIT_BYTES}: let children"
            " return less, or a reference, or make this handler an async def, which runs in the worker"
        )
    return frame
