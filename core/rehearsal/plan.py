"""Everything that is to happen in one run, as a value: what is submitted, and the faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Self

from core.tasks import Task

__all__ = ["DISASTERS", "Happening", "Plan", "disasters"]

#: The kinds of faults that are planned. Those of single exchanges come with the `strength` of a plan.
DISASTERS = (
    "kill", "loss", "drain", "outage", "replacement", "pause", "partition", "clock", "full", "lease", "duplicate",
    "deletion",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens at a moment."""

    at_s: float  #: since the start, virtual
    kind: str  #: one of DISASTERS, or what the client does: submit, cancel
    who: str = ""  #: an agent
    seconds: float = 0.0  #: how long it lasts; clock: the step
    turns: int = 0  #: kill: how many times all others may go on before it, so that it comes at any await
    pick: float = 0.0  #: 0 to 1, what it meets: duplicate: which message; cancel: which of the tasks; deletion: the key
    tasks: tuple[Task, ...] = ()

    def __str__(self) -> str:
        for_s = f" for {self.seconds:.1f} s"
        said = {
            "submit": f"client submits {', '.join(f'{task.task_id} {task.task_type}' for task in self.tasks)}",
            "cancel": "client asks for the end of a task",
            "kill": f"{self.who} is killed",
            "loss": f"{self.who} is gone for good",
            "drain": f"{self.who} drains",
            "outage": f"nobody reaches the store{for_s}",
            "replacement": f"{self.who} is cut off{for_s}, and replaced meanwhile",
            "pause": f"{self.who} stands still{for_s}, and is replaced meanwhile",
            "partition": f"{self.who} hardly reaches the store{for_s}",
            "clock": f"the clock of the store steps by {self.seconds:g} s",
            "full": f"the store is full{for_s}",
            "lease": f"the lease of {self.who} expires",
            "duplicate": "an old message is posted again",
            "deletion": f"a key of {self.who} is deleted",
        }
        return f"{self.at_s:8.3f}  {said[self.kind]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. The same plan gives the same run, event by event."""

    seed: int
    happenings: tuple[Happening, ...] = ()
    strength: float = 0.0  #: the share of exchanges that a fault strikes
    slow: float = 0.0  #: the share of exchanges that take longer
    only: frozenset[tuple[str, int]] | None = None  #: the exchanges that are struck, by agent and number; None: any
    absent: frozenset[str] = frozenset()  #: agents that are not started
    lasts_s: float = 0.0  #: it does not end before, virtual

    def having(self, happenings: Sequence[Happening]) -> Self:
        return replace(self, happenings=tuple(happenings))


def disasters(chance: Random, agents: Sequence[str], length_s: float, allowed: frozenset[str]) -> list[Happening]:
    """Faults of the kinds that are allowed, within `length_s`. `agents` begins with the coordinator."""
    drawn: list[Happening] = []

    def draw(kind: str, who: str, seconds: float = 0.0) -> None:
        at_s, turns, pick = chance.uniform(0.0, length_s), chance.choice([0, chance.randrange(60)]), chance.random()
        drawn.append(Happening(at_s, kind, who, seconds, turns, pick))

    for _ in range(chance.choice([0, 1, 2, 5])):
        draw("kill", chance.choice(agents))
    for kind, share, shortest_s, longest_s in (
        ("drain", 0.3, 0.0, 0.0), ("outage", 0.2, 1.0, 12.0), ("replacement", 0.3, 4.0, 15.0),
        ("pause", 0.3, 4.0, 15.0), ("partition", 0.2, 1.0, 12.0), ("full", 0.15, 0.5, 6.0), ("lease", 0.15, 0.0, 0.0),
    ):  # fmt: skip
        if chance.random() < share:
            draw(kind, chance.choice(agents[1:] if kind == "drain" else agents), chance.uniform(shortest_s, longest_s))
    for _ in range(chance.choice([0, 0, 2, 4])):
        draw("duplicate", "")
    if len(agents) > 2 and chance.random() < 0.3:
        draw("loss", agents[2])
    if chance.random() < 0.2:
        draw("clock", "", chance.choice([-120.0, -2.0, 2.0, 60.0]))
    else:  # a stream that is made anew while the clock is set back begins with ids that are old already
        for _ in range(chance.choice([0, 0, 1, 3])):
            draw("deletion", chance.choice(agents[1:]))
    return [happening for happening in drawn if happening.kind in allowed]
