"""What a worker and its hosts say to each other, as msgpack in frames (see worker.children.frames).

A run has a number, which its host never sees twice. What a host says of a run that the worker has forgotten is dropped.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from core.spans import Attribute, Kind
from core.tasks import TaskError
from worker.children.frames import wrap

__all__ = [
    "Answer", "Ask", "Begin", "Cancel", "Chunks", "Drain", "Ended", "FromHost", "Printed", "Progressed", "Replace",
    "Spanned", "ToHost", "Told", "from_host", "packed", "to_host",
]  # fmt: skip


class Begin(Struct, tag="begin", array_like=True, gc=False):
    """To a host: run this graph."""

    run: int
    request: bytes  #: JSON, as `worker.execution.attempt.run_request` gives it


class Cancel(Struct, tag="cancel", array_like=True, gc=False):
    """To a host: end this run now."""

    run: int


class Drain(Struct, tag="drain", array_like=True, gc=False):
    """To a host: end this run after the nodes that it runs."""

    run: int


class Ended(Struct, tag="ended", array_like=True, gc=False):
    """From a host: how a run has ended. One of `result`, `error`, `suspension` and `drained` is set."""

    run: int
    result: bytes = b""  #: JSON
    error: TaskError | None = None
    short_of: str = ""  #: what the host had not enough of, such as descriptors: no fault of the run
    suspension: bytes = b""  #: JSON: [waits, tasks]
    stored: bool = False  #: whether it has left checkpoints behind
    in_thread: bool = False  #: whether its final state is only there
    drained: bool = False  #: it has stopped between two nodes, and can go on
    stuck: str = ""  #: what it has left behind in the host and cannot be ended; empty: nothing


class Printed(Struct, tag="printed", array_like=True, gc=False):
    """From a host: what a run has written to its standard streams."""

    run: int
    text: bytes


class Progressed(Struct, tag="progressed", array_like=True, gc=False):
    """From a host: a progress report."""

    run: int
    report: bytes  #: JSON


class Told(Struct, tag="told", array_like=True, gc=False):
    """From a host: an event."""

    run: int
    fields: bytes  #: JSON


class Spanned(Struct, tag="spanned", array_like=True, gc=False):
    """From a host: a span of what a run has done, see core.spans.Span."""

    run: int
    name: str
    span_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    parent_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute]
    kind: Kind
    error: str


class Chunks(Struct, tag="chunks", array_like=True, gc=False):
    """From a host: what a run streams."""

    run: int
    chunks: bytes  #: each as JSON, [mode, namespace, data], with commas between them


class Ask(Struct, tag="ask", array_like=True, gc=False):
    """From a host: a call of the Memory that its worker has."""

    call: int
    method: str
    arguments: bytes  #: msgpack


class Answer(Struct, tag="answer", array_like=True, gc=False):
    """To a host: what has come of a call."""

    call: int
    value: bytes = b""  #: msgpack
    error: str = ""  #: name of the class in core.errors; "": none
    message: str = ""


class Replace(Struct, tag="replace", array_like=True, gc=False):
    """From a host: it should run nothing new."""

    why: str


ToHost: TypeAlias = Begin | Cancel | Drain | Answer
FromHost: TypeAlias = Ended | Printed | Progressed | Told | Spanned | Chunks | Ask | Replace

_encoder = msgspec.msgpack.Encoder()
to_host = msgspec.msgpack.Decoder(ToHost)
from_host = msgspec.msgpack.Decoder(FromHost)


def packed(message: ToHost | FromHost) -> bytes:
    """A frame with `message`."""
    return wrap(_encoder.encode(message))
