"""The worker's side of one host, and of the runs in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import msgspec
import orjson

from core.errors import BadTask
from worker.children.forks import ChildDied, Forked, NoProcess
from worker.children.frames import FRAME_LIMIT_BYTES
from worker.children.output import AttemptOutput, ChildOutput
from worker.children.pool import output_event
from worker.hosts.memory import Memory
from worker.hosts.messages import (
    Ask,
    Begin,
    Cancel,
    Chunks,
    Drain,
    Ended,
    Printed,
    Progressed,
    Replace,
    Spanned,
    ToHost,
    Told,
    from_host,
    packed,
)
from worker.hosts.storage_calls import answer_to

__all__ = ["Blame", "HostDied", "HostProcess", "HostRun"]

log = logging.getLogger(__name__)


class Blame(Enum):
    """What a run has to do with the death of its host."""

    GUILTY = "guilty"  #: it was alone, or the host was killed because of it
    SUSPECT = "suspect"  #: it was one of several, and nobody knows which of them has done it
    INNOCENT = "innocent"  #: it was another one


class HostDied(ChildDied):
    """A host ended during a run."""

    def __init__(self, death: ChildDied, blame: Blame) -> None:
        super().__init__(str(death), death.peak_mb)
        self.blame = blame


class HostRun:
    """One run in a host, as its worker sees it."""

    def __init__(
        self,
        host: HostProcess,
        number: int,
        output: AttemptOutput,
        report: Callable[[bytes], None],
        tell: Callable[[dict[str, Any]], None] | None,
        stream: Callable[[bytes], None] | None,
        span: Callable[[Spanned], None],
    ) -> None:
        self.stream = stream
        self.span = span
        self.host = host
        self.number = number
        self.output = output
        self.report = report
        self.tell = tell
        self.answer: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    @property
    def printed(self) -> bytes:
        """The end of what the run has printed so far."""
        return self.output.tail or (self.host.output.tail if self.host.alone else b"")

    def cancel(self) -> None:
        """Asks the run to stop. User code may ignore that."""
        self.host.send(Cancel(self.number))

    def drain(self) -> None:
        """Asks the run to stop between two nodes, from where it can go on elsewhere."""
        self.host.send(Drain(self.number))

    def kill(self) -> None:
        """Kills the host, because of this run. The others in it are innocent."""
        self.host.condemned = self
        self.host.why_replace = self.host.why_replace or "it is being killed"
        self.host.kill()


class HostProcess(Forked):
    """One host. It has any number of runs; an exclusive one has one at a time."""

    def __init__(
        self,
        number: int,
        kill: Callable[[int], None],
        output: ChildOutput,
        *,
        alone: bool = False,
        memory: Memory | None = None,
    ) -> None:
        """`memory`: where its runs remember; None: nowhere."""
        super().__init__(number, kill, output)
        self.alone = alone  #: whether it is exclusive
        self.taken = 0  #: how many have been handed this host and have not returned it
        self.begun = 0  #: how many runs it has had
        self.condemned: HostRun | None = None  #: the run because of which it was killed
        self._memory = memory
        self._answering: set[asyncio.Task[None]] = set()
        self._runs: dict[int, HostRun] = {}
        self._death = ChildDied("its process ended before the run began")
        output.begin(f"host-{number}")

    async def run(
        self,
        task_id: str,
        request: bytes,
        report: Callable[[bytes], None],
        tell: Callable[[dict[str, Any]], None] | None,
        begun: Callable[[HostRun], None],
        stream: Callable[[bytes], None] | None = None,
        span: Callable[[Spanned], None] = lambda span: None,
    ) -> Ended:
        """How the run that `request` asks for has ended; `begun` is called with it first, `report` with each progress
        report, as JSON, `tell` with the fields of each event, `stream` with its chunks, `span` with each span. Raises
        HostDied; NoProcess; BadTask: the request is too large."""
        self.begun += 1
        told = partial(_tell_output, tell) if tell else None
        run = HostRun(self, self.begun, self.output.of_run(task_id, told), report, tell, stream, span)
        if self.gone:
            raise self._death if isinstance(self._death, NoProcess) else HostDied(self._death, Blame.INNOCENT)
        if self.alone:
            self.output.begin(task_id, told)
        self._runs[run.number] = run
        begun(run)
        try:
            self._send_frame(_begin_frame(run.number, request))
            return await run.answer
        except asyncio.CancelledError:
            run.kill()  # nobody waits for its outcome any more
            raise
        finally:
            del self._runs[run.number]
            run.output.end()
            if self.alone:
                self.output.end()

    def send(self, message: ToHost) -> None:
        self._send_frame(packed(message))

    def _send_frame(self, frame: bytes) -> None:
        if self._transport is not None and not self.gone:
            self._transport.write(frame)

    def on_body(self, body: bytes) -> None:
        try:
            message = from_host.decode(body)
        except msgspec.MsgspecError as error:
            raise ValueError("no message of a host") from error
        if isinstance(message, Replace):
            self.why_replace = message.why
            if not self.taken:  # otherwise it is retired when the last run is over
                self.retire()
        elif isinstance(message, Ask):
            answering = asyncio.get_running_loop().create_task(self._answer(message))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
        elif run := self._runs.get(message.run):
            self._on_message(run, message)

    async def _answer(self, ask: Ask) -> None:
        assert self._memory is not None
        self.send(await answer_to(ask, self._memory))

    def _on_message(self, run: HostRun, message: Ended | Printed | Progressed | Told | Spanned | Chunks) -> None:
        match message:
            case Printed():
                run.output.take(message.text)
            case Progressed():
                run.report(message.report)
            case Chunks():
                if run.stream is not None:
                    run.stream(message.chunks)
            case Spanned():
                run.span(message)
            case Told():
                if run.tell is not None:
                    fields = orjson.loads(message.fields)
                    run.tell({name: fields.get(name) for name in ("type", "node_id", "data")})
            case Ended():
                if not run.answer.done():
                    run.answer.set_result(message)

    def ended(self, death: ChildDied) -> None:
        super().ended(death)
        self._death = death
        for answering in self._answering:
            answering.cancel()
        open_runs = [run for run in self._runs.values() if not run.answer.done()]
        for run in open_runs:
            was_there = not isinstance(death, NoProcess)
            run.answer.set_exception(HostDied(death, self._blame(run, len(open_runs))) if was_there else death)

    def _blame(self, run: HostRun, of: int) -> Blame:
        if self.condemned is not None:
            return Blame.GUILTY if run is self.condemned else Blame.INNOCENT
        return Blame.GUILTY if of == 1 else Blame.SUSPECT


def _tell_output(tell: Callable[[dict[str, Any]], None], text: str) -> None:
    tell(output_event(text))


def _begin_frame(number: int, request: bytes) -> bytes:
    frame = packed(Begin(number, request))
    if len(frame) > FRAME_LIMIT_BYTES:
        raise BadTask(
            f"its payload and its children's results have {len(frame)} bytes, over {FRAME_LIMIT_BYTES}: let children"
            " return less, or a reference"
        )
    return frame
