"""Batches of real runs, replayed: the same memory and the same batch give the same step, byte for byte.

A time, an id or an order that comes from anywhere else than the batch shows here, and so does every change of a rule.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.recording.comparison import compared, files_of
from tests.replay.record import text_of_today
from tests.replay.story import FOLDER

CURE = "If that is meant: `python -m tests.replay.record --steps`, and look at the diff"


@pytest.mark.parametrize("path", files_of(FOLDER), ids=lambda path: path.stem)
def test_todays_code_decides_what_was_decided_in_the_run_that_was_recorded(path: Path) -> None:
    report = compared(path)

    assert not report.problem, f"{path.name}: {report.problem}"
    assert report.difference is None, f"{path.name}: {report.difference}\n{CURE}."
    assert report.batches > 10


def test_what_is_recorded_anew_of_the_same_code_is_the_same_file() -> None:
    path = files_of(FOLDER)[0]
    assert text_of_today(path) == path.read_text()
