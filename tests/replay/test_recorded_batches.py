"""Batches of real runs, replayed: the same memory and the same batch give the same step, byte for byte.

A time, an id or an order that comes from anywhere else than the batch shows here, and so does every change of a rule.
"""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path

import pytest

from tests.replay.recording import FOLDER, parts_of, text_of
from tests.replay.replaying import replayed

LIVES = sorted(FOLDER.glob("*.txt"))
CURE = "If that is meant: `python -m tests.replay.record --steps`, and look at the diff"


@pytest.mark.parametrize("path", LIVES, ids=lambda path: path.stem)
def test_todays_code_decides_what_was_decided_in_the_run_that_was_recorded(path: Path) -> None:
    recorded = path.read_text()
    beginning, moments = parts_of(recorded)
    batches = [moment for moment, _ in moments]

    said = replayed(beginning, batches)

    today = text_of(beginning, list(zip(batches, said, strict=True)))
    changed = list(unified_diff(recorded.splitlines(), today.splitlines(), "recorded", "today", n=1, lineterm=""))
    assert not changed, "\n".join([f"{len(changed)} lines differ. {CURE}.", *changed[:40]])
