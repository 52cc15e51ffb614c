"""The program of the page runs as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.pages import ROOT, sample_of


def test_the_program_that_the_page_begins_with_runs_as_it_stands(tmp_path: Path) -> None:
    program = sample_of("docs/engine.md", "A program")
    assert program.count("\n") <= 25
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (ran.stdout, ran.stderr) == ("Number(value=42)\n", "")
