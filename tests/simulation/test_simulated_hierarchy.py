"""Whole hierarchies in virtual time, under faults that a seed chooses.

The very loop, committer, inbox, graphs and rules of production run on a store in memory; only the executor of user
code is one for virtual time. One seed is one story, the same each time. To see what happened in one:

    pytest tests/simulation -k "seed-17" -s
"""

from __future__ import annotations

import pytest

from tests.simulation.story import tell

#: A quarter of a second each.
SEEDS = range(100)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}-")
def test_every_accepted_task_ends_once_and_is_told_once_whatever_happens(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    story = tell(seed)

    bugs = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    told = "\n".join([f"seed {seed}:", *story.log, *story.world.problems, *bugs])
    assert not story.world.problems, told
    assert not bugs, told


def test_a_story_is_the_same_each_time_it_is_told() -> None:
    first, second = tell(7), tell(7)

    assert first.log == second.log
    assert first.world.store.executed == second.world.store.executed
    assert first.client.results == second.client.results
