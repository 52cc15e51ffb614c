"""The schedule of faults, which depends only on a seed, the duration, the interval and the targets.

So it is the same on every machine. A target stands for the process that acts for an id, or for one that waits to act,
so the actual process is only known at the time of the fault. What is down comes back after a while, and never more than
half of the agents are down at once.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

__all__ = ["LINK", "SERVER", "Fault", "Kind", "Target", "schedule"]


class Kind(StrEnum):
    KILL = "kill"  #: SIGKILL to an agent, which is restarted after a while
    TERMINATE = "terminate"  #: SIGTERM to an agent, which drains, and is restarted when it has ended
    STOP = "stop"  #: SIGSTOP to an agent, and SIGCONT later: it continues with all that it remembers
    CUT = "cut"  #: an agent's connections are reset, and each new one as well
    DELAY = "delay"  #: everything that an agent sends and receives takes longer
    BLACK_HOLE = "black-hole"  #: what is sent in one direction, or both, does not arrive, and nobody notices
    SERVER_KILL = "server-kill"  #: SIGKILL to the server, which is restarted with its append-only file
    SERVER_STOP = "server-stop"  #: SIGSTOP to the server, and SIGCONT later


#: Faults of the link between an agent and the server.
LINK = frozenset({Kind.CUT, Kind.DELAY, Kind.BLACK_HOLE})
_OF_SERVER = frozenset({Kind.SERVER_KILL, Kind.SERVER_STOP})

#: The share of each kind in percent, and its shortest and longest duration, in seconds. A death ends with the restart;
#: the others may last twice the lease of 2 s, so that a stopped process is replaced.
PROFILE = {
    Kind.KILL: (66, 0.1, 0.5),
    Kind.TERMINATE: (9, 0.1, 0.5),
    Kind.STOP: (9, 0.5, 4.0),
    Kind.CUT: (5, 0.3, 4.0),
    Kind.DELAY: (4, 1.0, 4.0),
    Kind.BLACK_HOLE: (4, 1.0, 5.0),
    Kind.SERVER_KILL: (2, 0.2, 1.5),
    Kind.SERVER_STOP: (1, 0.5, 4.0),
}
#: Seconds that a delay adds in each direction: a near network, a far one, and a broken one.
DELAYS_S = (0.005, 0.05, 0.5)
#: Seconds without a fault after a target is back: time to start, and after a fault of the server time for all to
#: recover.
REST_S, SERVER_REST_S = 0.5, 4.0
#: The longest pause between two faults, in mean intervals, so that a short run has faults as well.
MAX_PAUSE_INTERVALS = 4.0

Towards = Literal["both", "server", "client"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a fault hits: the process that acts for an agent id, one that waits to act for it, or the server."""

    agent_id: str
    standby: bool = False

    def __str__(self) -> str:
        return f"{self.agent_id}'s standby" if self.standby else self.agent_id


SERVER = Target("server")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule."""

    at_s: float  #: since the beginning of the schedule
    kind: Kind
    target: Target
    lasts_s: float  #: until the target is restarted, continued or healed
    delay_s: float = 0.0  #: for a delay: in each direction
    towards: Towards = "both"  #: for a black hole: the direction that is blocked

    def __str__(self) -> str:
        how = {
            Kind.DELAY: f" by {self.delay_s * 1000:g} ms each way",
            Kind.BLACK_HOLE: "" if self.towards == "both" else f" towards the {self.towards}",
        }.get(self.kind, "")
        return f"{self.kind} {self.target}{how} for {self.lasts_s:.1f} s"


def schedule(
    seed: int,
    seconds: float,
    interval_s: float,
    targets: Sequence[Target],
    kinds: Collection[Kind] = frozenset(Kind),
) -> tuple[Fault, ...]:
    """The faults of `kinds` within `seconds`, in order. On average one begins every `interval_s`."""
    return tuple(_faults(random.Random(seed), seconds, interval_s, targets, [kind for kind in Kind if kind in kinds]))


def _faults(
    chance: random.Random, seconds: float, interval_s: float, targets: Sequence[Target], kinds: Sequence[Kind]
) -> Iterator[Fault]:
    weights = [PROFILE[kind][0] for kind in kinds]
    whole_s: dict[Target, float] = {}  # when a target can be hit again
    at_s = 0.0
    while True:
        at_s += min(chance.expovariate(1 / interval_s), MAX_PAUSE_INTERVALS * interval_s)
        if at_s >= seconds:
            return
        [kind] = chance.choices(kinds, weights)
        ill = [target for target, until_s in whole_s.items() if until_s > at_s]
        among = [SERVER] if kind in _OF_SERVER else targets
        well = [target for target in among if target not in ill]
        if not well or (
            kind not in _OF_SERVER and 2 * len([target for target in ill if target != SERVER]) >= len(targets)
        ):
            continue
        fault = _fault(chance, at_s, kind, chance.choice(well))
        whole_s[fault.target] = at_s + fault.lasts_s + (SERVER_REST_S if fault.target == SERVER else REST_S)
        yield fault


def _fault(chance: random.Random, at_s: float, kind: Kind, target: Target) -> Fault:
    _, min_s, max_s = PROFILE[kind]
    lasts_s = round(chance.uniform(min_s, max_s), 3)
    delay_s = chance.choice(DELAYS_S) if kind is Kind.DELAY else 0.0
    towards: Towards = chance.choice(("both", "server", "client")) if kind is Kind.BLACK_HOLE else "both"
    return Fault(round(at_s, 3), kind, target, lasts_s, delay_s, towards)
