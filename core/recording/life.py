"""A life of an agent in a file: what its batches were, and what its steps said.

    recording {...}            the shape of the file, and the version that wrote it
    life {...}                 who it was, and what it read when it began
    batch {...}                what it knew at the moment of one run
      write tasks t {...}      what that run decided, a line for each thing
    end ...                    why the recording ends before the life does

What went in is read again, so it is kept as it came: messages as the bytes that were signed, what happened in the
process as JSON behind the name of its type. What came out is only compared, so it is text, in which a difference shows
by itself. No key is kept: a record has lost its seal, and whether that was good is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from core.a2a_messaging import A2AMessage
from core.roles import ASKERS, Address, Role
from core.runtime.tier import Tier
from core.signing import ReplayWindow, Signed
from core.status_reports import status_report
from core.step import Batch, Call, Event, Received

__all__ = [
    "INDENT", "SHAPE", "Beginning", "Head", "KeptRecord", "Letter", "Moment", "Turn", "batch_of", "head_text",
    "moment_of", "turn_text",
]  # fmt: skip

#: The shape of these values. A file of another one is not read.
SHAPE = 1
#: Before each line of a step.
INDENT = "  "


class Head(Struct):
    """The first line of a file."""

    shape: int
    version: str  #: of the code that wrote it


class KeptRecord(Struct, array_like=True):
    """A stored value. `seal`: the kind of record that it was sealed as; `forged`, `unknown`: the seal is not good, or
    of an unknown key; empty: there was none."""

    text: str
    seal: str = ""


class Beginning(Struct, omit_defaults=True):
    """What an agent was when it had read its state, and what it had read."""

    chain: list[str]
    config: dict[str, Any]  #: what differs from the defaults of AgentConfig
    incarnation: int = 0
    read_ms: int = 0  #: when it took up its state, by its monotonic clock
    draining: bool = False
    nodes: list[str] = []  #: a program's own in its graph
    hashes: dict[str, dict[str, KeptRecord]] = {}
    lengths: dict[str, dict[str, int]] = {}  #: of fields of hashes, of which only the length was asked
    indexes: dict[str, list[str]] = {}  #: sorted sets


class Letter(Struct, omit_defaults=True):
    """A message as it came. Of a heartbeat nobody keeps where it lay and how it was signed."""

    sender: str
    body: Raw
    entry: str = ""
    key_id: str = ""
    signature: str = ""


class Moment(Struct, omit_defaults=True):
    """A batch."""

    now: datetime
    mono_ms: int
    messages: list[Letter] = []
    beats: list[Letter] = []
    events: list[tuple[str, Raw]] = []
    stored: dict[str, str] = {}
    sent: dict[str, int] = {}
    windows: dict[str, str] = {}  #: of the agents, since no rule asks for those of clients


class Turn(NamedTuple):
    """A batch, and what its step said."""

    moment: Moment
    lines: list[str]


def head_text(head: Head, beginning: Beginning) -> str:
    """The beginning of a file."""
    return f"recording {_json(head)}\nlife {_json(beginning)}\n"


def turn_text(turn: Turn) -> str:
    """A batch and its step, as they stand in a file."""
    return "".join([f"batch {_json(turn.moment)}\n", *(f"{INDENT}{line}\n" for line in turn.lines)])


def moment_of(batch: Batch) -> Moment:
    """The batch as a value that a step does not change."""
    return Moment(
        now=batch.now,
        mono_ms=batch.mono_ms,
        messages=[_letter(message) for message in batch.messages],
        beats=[_letter(beat) for beat in batch.beats],
        events=[_told(event) for event in batch.events],
        stored={task_id: record.decode() for task_id, record in batch.stored.items()},
        sent={str(address): number for address, number in batch.sent.items() if address.role not in ASKERS},
        windows={
            sender: window.to_text().decode()
            for sender, window in batch.windows.items()
            if sender.partition(":")[0] not in ASKERS
        },
    )


def batch_of(moment: Moment, tier: Tier) -> Batch:
    """The batch that an agent of that tier was given. Raises PeerError, ValueError, KeyError when today's code does not
    know what is in it."""
    return Batch(
        now=moment.now,
        mono_ms=moment.mono_ms,
        messages=[_received(letter) for letter in moment.messages],
        beats=[_received(letter) for letter in moment.beats],
        events=_events(moment.events, tier),
        stored={task_id: record.encode() for task_id, record in moment.stored.items()},
        sent={_address(text): number for text, number in moment.sent.items()},
        windows={sender: ReplayWindow.from_text(text.encode()) for sender, text in moment.windows.items()},
    )


def _address(text: str) -> Address:
    """Also of what is counted for all clients together, `client:*`, which is nobody's id."""
    role, _, agent_id = text.partition(":")
    return Address(Role(role), agent_id)


def _letter(message: Received) -> Letter:
    if message.signed is None:
        return Letter(str(message.sender), Raw(message.message.encode()))
    signed = message.signed
    return Letter(
        str(message.sender), Raw(signed.body), message.entry_id.decode(), signed.key_id, signed.signature.decode()
    )  # fmt: skip


def _received(letter: Letter) -> Received:
    sender, body = Address.parse(letter.sender), bytes(letter.body)
    signed = Signed(sender, letter.key_id, letter.signature.encode(), body) if letter.signature else None
    message = A2AMessage.decode(body)
    status = status_report(sender.role, message.action, message.payload)
    return Received(sender, message, letter.entry.encode(), signed, status)


def _told(event: Event) -> tuple[str, Raw]:
    if isinstance(event, Call):
        return f"Call {type(event.request).__name__}", Raw(msgspec.json.encode(event.request, enc_hook=str))
    return type(event).__name__, Raw(msgspec.json.encode(event, enc_hook=str))


def _events(told: Sequence[tuple[str, Raw]], tier: Tier) -> list[Event]:
    events = {kind.__name__: kind for kind in tier.events}
    requests = {f"Call {kind.__name__}": kind for kind in tier.requests}
    return [
        Call(msgspec.json.decode(fields, type=requests[name]))
        if name in requests
        else msgspec.json.decode(fields, type=events[name])
        for name, fields in told
    ]


def _json(value: Struct) -> str:
    return msgspec.json.encode(value).decode()
