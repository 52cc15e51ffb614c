"""Batches of real runs, replayed: the same memory and the same batch give the same step, byte for byte.

A time, an id or an order that comes from anywhere else than the batch shows here, and so does every change of a rule.
"""

from __future__ import annotations

from itertools import takewhile, zip_longest
from pathlib import Path

import pytest

from tests.replay.recording import FOLDER, parts_of, text_of
from tests.replay.replaying import replayed

LIVES = sorted(FOLDER.glob("*.txt"))
CURE = "If that is meant: `python -m tests.replay.record --steps`, and look at the diff"
#: How much of two lines is shown before and after the place where they part.
BEFORE, AFTER = 80, 160


@pytest.mark.parametrize("path", LIVES, ids=lambda path: path.stem)
def test_todays_code_decides_what_was_decided_in_the_run_that_was_recorded(path: Path) -> None:
    recorded = path.read_text()
    beginning, moments = parts_of(recorded)
    batches = [moment for moment, _ in moments]

    said = replayed(beginning, batches)

    today = text_of(beginning, list(zip(batches, said, strict=True)))
    assert not (changed := difference(recorded, today)), f"{path.name}, {changed}\n{CURE}."


def difference(recorded: str, today: str) -> str:
    """Where two texts of one life begin to differ, and how; empty: they are the same."""
    batch = 0
    for was, is_now in zip_longest(recorded.splitlines(), today.splitlines(), fillvalue=""):
        batch += was.startswith("batch ")
        if was != is_now:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(was, is_now, strict=False))
            start = max(0, len(list(same)) - BEFORE)
            shown = [f"...{line[start : start + BEFORE + AFTER]}" for line in (was, is_now)]
            return f"batch {batch}:\n  recorded {shown[0]}\n  today    {shown[1]}"
    return ""


@pytest.mark.parametrize(
    ("today", "shown"),
    [
        ("life\nbatch 1\n  wake 5\nbatch 2\n  wake 7\n", ""),
        ("life\nbatch 1\n  wake 5\nbatch 2\n  wake 8\n", "batch 2:\n  recorded ...  wake 7\n  today    ...  wake 8"),
        ("life\nbatch 1\n  wake 5\nbatch 2\n", "batch 2:\n  recorded ...  wake 7\n  today    ..."),
    ],
)
def test_a_difference_is_shown_where_it_begins(today: str, shown: str) -> None:
    assert difference("life\nbatch 1\n  wake 5\nbatch 2\n  wake 7\n", today) == shown
