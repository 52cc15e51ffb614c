"""`make agents`: a team of agents ends its work although a worker is killed, and no step is done twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import Installation


@pytest.mark.timeout(240)
def test_a_team_loses_a_worker_and_does_nothing_twice(tmp_path: Path) -> None:
    picture = tmp_path / "team.svg"
    with Installation.opened() as here:
        ended = subprocess.run(
            [sys.executable, "-m", "examples.research_team", "--yes", "--picture", picture, "leases; dead letters"],
            cwd=Path(__file__).parents[2],
            env=here.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout.splitlines()
    assert any(line.strip().startswith("kill -9 ") for line in said)
    assert "# leases; dead letters" in said
    assert said[-1].startswith("All ")
    assert said[-1].endswith("and none of them twice.")
    assert re.search(r"<title>[^<]*researcher[^<]* lost after", picture.read_text())
