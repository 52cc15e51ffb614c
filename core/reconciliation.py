"""How a parent finds tasks that it handed to a child and that were lost on the way: a stream was emptied, or a hash
deleted. A table says which state follows which event, as in h11. No clocks are compared. No I/O.

    IDLE ─ asked ─▶ ASKED ─ has read ─▶ READ ─ looked ─▶ LOOKED ─ heard out ─▶ CONFIRMED ─ judged ─▶ IDLE

The order makes it sound. Once the child has read everything that was sent before the question, it has received each
task asked after, unless that was lost. A task that it does not hold then was lost or has been reported; and once
everything that it had sent by then has been taken, a task that is still in flight was not reported.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from core.status_reports import Beat

__all__ = ["TRANSITIONS", "Held", "Probe", "ProbeEvent", "ProbeState"]


class ProbeState(Enum):
    IDLE = "idle"  #: nothing is asked
    ASKED = "asked"  #: the child may not have read what was sent to it before the question
    READ = "read"  #: it has; what it holds since then is not known yet
    LOOKED = "looked"  #: what it holds is known; a report that it had sent by then may be on the way
    CONFIRMED = "confirmed"  #: no report is on the way: what was asked after and is still missing is lost


class ProbeEvent(Enum):
    ASKED = "asked"  #: the child has tasks, and the question is which
    HAS_READ = "has read"  #: it says that it has read everything sent before the question
    LOOKED = "looked"  #: what it holds was found
    HEARD_OUT = "heard out"  #: everything was taken that it had sent when that was found
    JUDGED = "judged"  #: what is lost was taken from the answer
    EXPIRED = "expired"  #: nobody has answered for too long
    RESTARTED = "restarted"  #: the child was started anew, and its successor has read nothing yet


S, E = ProbeState, ProbeEvent
_ENDED = {E.EXPIRED: S.IDLE, E.RESTARTED: S.IDLE}
#: What follows. An event without a row in a state means nothing there: the state stays as it is.
TRANSITIONS: Mapping[ProbeState, Mapping[ProbeEvent, ProbeState]] = {
    S.IDLE: {E.ASKED: S.ASKED},
    S.ASKED: {E.HAS_READ: S.READ, **_ENDED},
    S.READ: {E.HAS_READ: S.READ, E.LOOKED: S.LOOKED, **_ENDED},
    S.LOOKED: {E.LOOKED: S.LOOKED, **_ENDED, E.HEARD_OUT: S.CONFIRMED},
    S.CONFIRMED: {E.JUDGED: S.IDLE},
}


class Held(NamedTuple):
    """The tasks found with a child, and the number of its last heartbeat at that moment."""

    beat: int
    tasks: frozenset[str]


@dataclass(slots=True)
class Probe:
    """The question to one child, over several heartbeats: which of these tasks do you have?

    Each method below returns whether its event has happened, and has moved the state."""

    state: ProbeState = S.IDLE
    sent: int = 0  #: the last sequence number sent to it when the question was asked
    tasks: Mapping[str, int] = field(default_factory=dict)  #: asked after, as in Subordinate.in_flight
    since_ms: int = 0  #: observer's monotonic time at which it was asked
    held: Held | None = None  #: the answer, from LOOKED on

    def ask(self, in_flight: Mapping[str, int], sent: int, mono_ms: int, fresh: Container[str] = ()) -> bool:
        """Begins, unless a question is open or nothing is to be asked. Tasks in `fresh`, handed over in this very step,
        are left out: their message comes after the one numbered `sent`."""
        if E.ASKED not in TRANSITIONS[self.state]:
            return False  # before the tasks are gathered, with every heartbeat
        asked = {task_id: at for task_id, at in in_flight.items() if task_id not in fresh}
        if not asked:
            return False
        self.sent, self.tasks, self.since_ms = sent, asked, mono_ms
        return self._moves(E.ASKED)

    def read(self, beat: Beat, incarnation: int) -> bool:
        """Whether the child has read everything that its parent's `incarnation` had sent when the question was asked.
        It must have read something from that incarnation, since messages of an earlier one may be unread otherwise."""
        heard = beat.parent_incarnation == incarnation and beat.received >= self.sent
        return heard and self._moves(E.HAS_READ)

    def look(self, held: Held, probe_ms: int) -> bool:
        """Takes what was found for the question of `probe_ms`. That for an earlier one is ignored, since it cannot know
        of later assignments."""
        if probe_ms != self.since_ms or not self._moves(E.LOOKED):
            return False
        self.held = held
        return True

    def hear_out(self, beat: Beat, taken: int) -> bool:
        """Whether everything was taken that the child had sent by a heartbeat after the look. `taken`: the number up to
        which nothing of it is missing."""
        later = self.held is not None and beat.beat > self.held.beat
        return later and taken >= beat.sent and self._moves(E.HEARD_OUT)

    def judge(self, in_flight: Mapping[str, int], ended: Container[str] = ()) -> list[str]:
        """Ends a confirmed question. Returns the tasks that were lost: asked after and in flight still, but not held. A
        task that came back and was handed over again since does not count. `ended` are found with the child, but it
        holds them no longer."""
        held = self.held
        if held is None or not self._moves(E.JUDGED):
            return []
        open_still = [task_id for task_id, at in in_flight.items() if self.tasks.get(task_id) == at]
        return [task_id for task_id in open_still if task_id not in held.tasks or task_id in ended]

    def expire(self, mono_ms: int, patience_ms: int) -> bool:
        """Whether the question is so old that the last message to the child, or from it, must have been lost. Send the
        child a message that it answers: the sequence numbers then move on for the next question."""
        return mono_ms - self.since_ms >= patience_ms and self._moves(E.EXPIRED)

    def restart(self) -> bool:
        """Drops the question to the child's predecessor."""
        return self._moves(E.RESTARTED)

    def _moves(self, event: ProbeEvent) -> bool:
        after = TRANSITIONS[self.state].get(event)
        if after is None:
            return False
        self.state = after
        if after is S.IDLE:
            self.held = None
        return True
