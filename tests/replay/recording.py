"""A life of an agent in a file: what its batches were, and what its steps have said.

    life {...}                 who it was, and what lay in the store when it began
    batch {...}                what it knew at the moment of one run
      write tasks t {...}      what that run decided, a line for each thing

What went in is read again, so it is kept as it came: messages as the bytes that were signed, records as they were
sealed, what happened in the process as JSON behind the name of its type. What came out is only compared, so it is text,
in which a difference shows by itself.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Raw, Struct

import coordinator.state
import core.step
import worker.rules
from coordinator.state import CoordinatorRequest, Fetched, Found
from core.a2a_messaging import A2AMessage
from core.roles import Address, Role
from core.signing import ReplayWindow, Signed
from core.status_reports import status_report
from core.step import Batch, Call, Received, Sending
from core.tasks import NULL
from distributor.state import DistributorRequest

__all__ = ["FOLDER", "Beginning", "Moment", "batch_of", "moment_of", "parts_of", "text_of"]

FOLDER = Path(__file__).parent / "recordings"

EVENTS: dict[str, Any] = {
    name: getattr(module, name) for module in (core.step, coordinator.state, worker.rules) for name in module.__all__
}
#: By who is asked, and the name of the request.
REQUESTS: dict[tuple[str, str], Any] = {
    **{("coordinator", kind.__name__): kind for kind in get_args(CoordinatorRequest)},
    **{("distributor", kind.__name__): kind for kind in get_args(DistributorRequest)},
}


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
    windows: dict[str, str] = {}


class Beginning(Struct, omit_defaults=True):
    """What an agent was when it had read its state."""

    chain: list[str]
    config: dict[str, Any]  #: what differs from the defaults of AgentConfig
    incarnation: int
    mono_ms: int
    hashes: dict[str, dict[str, str]] = {}
    sorted_sets: dict[str, dict[str, float]] = {}


def moment_of(batch: Batch) -> Moment:
    return Moment(
        now=batch.now,
        mono_ms=batch.mono_ms,
        messages=[_letter(message) for message in batch.messages],
        beats=[_letter(beat) for beat in batch.beats],
        events=[_told(event) for event in batch.events],
        stored={task_id: record.decode() for task_id, record in batch.stored.items()},
        sent={str(address): number for address, number in batch.sent.items()},
        windows={sender: window.to_text().decode() for sender, window in batch.windows.items()},
    )


def batch_of(moment: Moment, role: str) -> Batch:
    """The batch that an agent of that role was given."""
    return Batch(
        now=moment.now,
        mono_ms=moment.mono_ms,
        messages=[_received(letter) for letter in moment.messages],
        beats=[_received(letter) for letter in moment.beats],
        events=[_event(role, *event) for event in moment.events],
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


def _told(event: Any) -> tuple[str, Raw]:
    if isinstance(event, Call):
        return f"Call {type(event.request).__name__}", Raw(msgspec.json.encode(event.request, enc_hook=str))
    return type(event).__name__, Raw(msgspec.json.encode(event, enc_hook=str))


def _event(role: str, name: str, told: Raw) -> Any:
    kind, _, what = name.partition(" ")
    if kind == "Call":
        return Call(msgspec.json.decode(told, type=REQUESTS[role, what]))
    if kind == "Fetched":
        return _fetched(told)
    return msgspec.json.decode(told, type=EVENTS[name])


class _Found(Struct):
    """As `Found`, whose `Raw | None` msgspec cannot decode."""

    task_id: str
    record: bytes | None
    original: Raw
    next_id: str
    latest: bytes | None


class _Fetched(Struct):
    reply: Sending
    found: tuple[_Found, ...]


def _fetched(told: Raw) -> Fetched:
    event = msgspec.json.decode(told, type=_Fetched)
    return Fetched(
        event.reply,
        tuple(
            Found(
                found.task_id,
                found.record,
                None if found.original == NULL else found.original,
                found.next_id,
                found.latest,
            )
            for found in event.found
        ),
    )


def text_of(beginning: Beginning, moments: list[tuple[Moment, list[str]]]) -> str:
    """A life, as it stands in its file; each moment with the lines that tell of its step."""
    lines = [f"life {msgspec.json.encode(beginning).decode()}"]
    for moment, said in moments:
        lines += [f"batch {msgspec.json.encode(moment).decode()}", *(f"  {line}" for line in said)]
    return "\n".join(lines) + "\n"


def parts_of(text: str) -> tuple[Beginning, list[tuple[Moment, list[str]]]]:
    """What `text_of` was given."""
    first, *lines = text.split("\n")[:-1]
    moments: list[tuple[Moment, list[str]]] = []
    for line in lines:
        if line.startswith("  "):
            moments[-1][1].append(line[2:])
        else:
            moments.append((msgspec.json.decode(line.removeprefix("batch "), type=Moment), []))
    return msgspec.json.decode(first.removeprefix("life "), type=Beginning), moments
