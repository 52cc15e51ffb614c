"""Whether today's code decides what was decided when a life was recorded, and where it begins not to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from core.errors import BadRecording
from core.recording.life import Turn
from core.recording.reader import RecordedLife
from core.recording.replay import replay

__all__ = ["Difference", "LifeReport", "compared", "files_of"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line of a step that is another one today."""

    batch: int  #: from 1 on
    line: int  #: of the step, from 1 on
    was: str  #: empty: there was none
    is_now: str  #: empty: there is none


@dataclass(slots=True)
class LifeReport:
    """What has become of a life that was replayed."""

    file: str
    agent: str = ""
    version: str = ""  #: of the code that wrote it
    batches: int = 0  #: how many were replayed
    difference: Difference | None = None  #: None: all steps are the same
    torn: bool = False
    end: str = ""  #: why the recording ends before the life did; empty: it does not
    problem: str = ""  #: why it could not be replayed, or not to its end; empty: it was


def files_of(folder: Path) -> list[Path]:
    """The files of a recording, one for each life. Raises BadRecording if there are none."""
    files = sorted(folder.glob("*.life-*.txt"))
    if not files:
        raise BadRecording(f"there is no recording in {folder}: an agent writes one with `--record {folder}`.")
    return files


def compared(path: Path) -> LifeReport:
    """Replays a life, up to the first difference. What follows one is not looked at, since the memory of the agent may
    be another one from there on."""
    report = LifeReport(path.name)

    def compare(turn: Turn, today: list[str]) -> bool:
        report.batches += 1
        report.difference = _difference(report.batches, turn.lines, today)
        return report.difference is None

    try:
        life = RecordedLife.opened(path)
        report.agent, report.version = life.beginning.chain[-1], life.head.version
        replay(life, compare)
        report.torn, report.end = life.torn, life.end
        if life.torn and report.difference and not report.difference.was:
            report.difference = None  # the rest of its last step was not written
    except BadRecording as error:
        report.problem = str(error)
    return report


def _difference(batch: int, recorded: Sequence[str], today: Sequence[str]) -> Difference | None:
    for line, (was, is_now) in enumerate(zip_longest(recorded, today, fillvalue=""), 1):
        if was != is_now:
            return Difference(batch, line, was, is_now)
    return None
