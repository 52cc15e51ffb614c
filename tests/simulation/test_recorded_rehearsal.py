"""Rehearsals of what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadRecording
from core.rehearsal import Recorded, Rehearsal, rehearse, scenario
from core.tasks import Task
from tests.replay.story import FOLDER


def ended_of(recorded: Recorded, tasks: list[tuple[str, Any]], faults: list[str]) -> list[Task]:
    seen: dict[str, Task] = {}

    @scenario(faults=faults, handlers=recorded.handlers)
    def again(rehearsal: Rehearsal) -> Iterator[None]:
        for task_type, payload in tasks:
            rehearsal.submit(task_type, payload)
        yield
        seen.update(rehearsal.ended)

    rehearse(again, seeds=[1])
    return [seen[f"t{number}"] for number in range(1, len(tasks) + 1)]


def test_what_was_recorded_is_done_again_with_its_failures() -> None:
    recorded = Recorded(FOLDER)
    assert ("add", [1, 2]) in recorded.tasks
    tasks = [("add", [1, 2]), ("flaky", 2)]
    added, flaky = ended_of(recorded, tasks, faults=[])
    assert (added.result, added.attempt, added.errors) == (3, 1, ())
    assert flaky.status == "completed"
    assert [error.type for error in flaky.errors] == ["ValueError", "ValueError"]
    assert ended_of(recorded, tasks, faults=["kill", "pause"])[0].result == 3


def test_what_was_not_recorded_fails_and_says_so() -> None:
    [ended] = ended_of(Recorded(FOLDER), [("add", ["never"])], faults=[])
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.message == "no recorded task of type 'add' had this payload"


def test_a_folder_without_recordings_of_workers_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="no recordings of workers"):
        Recorded(tmp_path)
