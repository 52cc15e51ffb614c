"""The program at the head of docs/rehearsal.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from core.rehearsal import rehearse
from core.rehearsal.scenario_file import scenario_in

PAGE = Path(__file__).parents[2] / "docs" / "rehearsal.md"


def test_the_program_at_the_head_of_the_page_holds(tmp_path: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    path = tmp_path / "documented_orders.py"
    path.write_text(program)

    assert program.count("\n") <= 25
    rehearse(scenario_in(str(path)), seeds=range(3))
