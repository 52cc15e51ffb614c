"""What docs/events.md shows is true: its program runs as it stands, and its table is the catalogue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.pages import sample_of, table_of_event_types

PAGE = Path(__file__).parents[2] / "docs/events.md"
LINES_OF_A_PROGRAM = 25


def test_the_program_with_a_bus_runs_as_it_stands() -> None:
    program = sample_of("docs/events.md", "In one process: the bus")
    assert program.count("\n") <= LINES_OF_A_PROGRAM
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout.splitlines(), ran.stderr) == (
        [
            "2 tool_call_started {'tool_use_id': 'call-1', 'tool_name': 'search', 'tool_input': {}}",
            "3 execution_completed {}",
            "3 events",
        ],
        "",
    )


def test_the_table_of_types_is_the_catalogue() -> None:
    assert PAGE.read_text().endswith(f"\n\n{table_of_event_types()}"), "run python -m tests.pages"
