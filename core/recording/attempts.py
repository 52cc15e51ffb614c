"""What the attempts in a folder of recordings were given, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import BadRecording, BadTask, PeerError
from core.launch.programs import tier_of
from core.recording.life import Moment, batch_of
from core.recording.reader import RecordedLife
from core.reports import AttemptReport
from core.roles import Action, Address, Role
from core.runtime.tier import Tier
from core.tasks import Task

__all__ = ["RecordedAttempt", "attempts_in"]


class RecordedAttempt(NamedTuple):
    """One attempt that has ended."""

    task: Task  #: as its worker was given it
    report: AttemptReport


def attempts_in(folder: Path) -> list[RecordedAttempt]:
    """The attempts of all workers, each worker's in the order in which they ended. Raises BadRecording: there are no
    recordings of workers, or none that this version can read."""
    files = sorted(folder.glob("worker-*.life-*.txt"))
    if not files:
        raise BadRecording(f"{folder} has no recordings of workers. Record some: agents up --record {folder}.")
    tier = tier_of(Role.WORKER)
    return [attempt for path in files for attempt in _in_a_life(RecordedLife.opened(path), path, tier)]


def _in_a_life(life: RecordedLife, path: Path, tier: Tier) -> Iterator[RecordedAttempt]:
    assert Address.parse(life.beginning.chain[-1]).role is Role.WORKER
    given: dict[tuple[str, int], Task] = {}
    for turn in life.turns():
        try:
            tasks, reports = _told(turn.moment, tier)
        except (PeerError, BadTask, ValueError, KeyError) as error:
            raise BadRecording(f"{path.name}: {error}. Replay it with the version that wrote it.") from error
        given.update(((task.task_id, task.attempt), task) for task in tasks)
        for report in reports:
            if task := given.pop((report.task_id, report.attempt), None):
                yield RecordedAttempt(task, report)


def _told(moment: Moment, tier: Tier) -> tuple[list[Task], list[AttemptReport]]:
    """The tasks that came with a batch, and the reports of attempts that had ended before it."""
    batch = batch_of(moment, tier)
    assigned = [received.message for received in batch.messages if received.message.action == Action.ASSIGN_TASK]
    tasks = [Task.from_json(item) for message in assigned for item in message.tasks]
    events: list[Any] = list(batch.events)
    return tasks, [event.report for event in events if type(event).__name__ == "Outcome"]
