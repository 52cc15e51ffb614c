"""What is said of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.pictures.sequence import Event, sequence_svg
from core.rehearsal.run import Outcome

__all__ = ["as_dict", "picture", "story"]

#: From left to right in a picture.
ROLES = ("client", "coordinator", "distributor", "worker")


def story(outcome: Outcome) -> Iterator[str]:
    """What happened in a traced run, and what was wrong with it, line by line."""
    plan = outcome.plan
    yield f"seed {plan.seed}: {outcome.tasks} tasks in {outcome.duration_s:.1f} s of virtual time"
    if plan.absent:
        yield f"without {', '.join(sorted(plan.absent))}"
    yield from (str(moment) for moment in outcome.moments)
    yield from (f"PROBLEM: {problem}" for problem in outcome.problems)
    if not outcome.problems:
        yield "every invariant held"


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "seed": outcome.plan.seed,
        "tasks": outcome.tasks,
        "virtual_s": outcome.duration_s,
        "absent": sorted(outcome.plan.absent),
        "problems": outcome.problems,
        "trace": [moment._asdict() for moment in outcome.moments],
    }


def picture(outcome: Outcome) -> str:
    """The trace as a sequence of messages between tiers, as SVG text."""
    named = {name for moment in outcome.moments for name in (moment.who, moment.to) if name}
    events = [Event(*moment) for moment in outcome.moments]
    return sequence_svg(sorted(named, key=_floor), events, f"Seed {outcome.plan.seed}: {_verdict(outcome)}")


def _verdict(outcome: Outcome) -> str:
    return outcome.problems[0] if outcome.problems else "every invariant held"


def _floor(name: str) -> tuple[int, str]:
    return next((place for place, role in enumerate(ROLES) if name.startswith(role)), len(ROLES)), name
