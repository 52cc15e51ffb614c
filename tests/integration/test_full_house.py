"""Many agents and open tasks at once: all of them are seen and found, a successor takes all over, and all tasks run."""

from __future__ import annotations

from tests.bench.full_house import full_house


def test_a_coordinator_with_many_agents_and_tasks_is_looked_into_taken_over_and_emptied() -> None:
    """A twentieth of what `make bench ARGS="--only full-house"` does, which measures it as well."""
    full_house(agents=500, tasks=5_000)
