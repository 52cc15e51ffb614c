"""What set-up leaves in .venv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / ".ci" / "setup"


def test_the_virtual_environment_has_pip_and_the_command(tmp_path: Path) -> None:
    pytest.importorskip("ensurepip", reason="Debian packs it with python3-venv; set-up then uses a pip from outside")
    (tmp_path / "none.txt").touch()

    subprocess.run(
        [SETUP, "none.txt"], cwd=tmp_path, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}, check=True
    )

    asked = subprocess.run([tmp_path / ".venv/bin/pip", "--version"], capture_output=True, text=True, check=True)
    assert str(tmp_path) in asked.stdout
    assert (tmp_path / ".venv/bin/agents").is_file()
