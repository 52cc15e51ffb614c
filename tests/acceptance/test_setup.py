"""What set-up leaves in .venv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / ".ci" / "setup"


def test_the_virtual_environment_has_pip_the_command_and_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("ensurepip", reason="Debian packs it with python3-venv; set-up then uses a pip from outside")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "none.txt").touch()
    for name in ("core", "coordinator", "distributor", "worker", "deploy"):
        (checkout / name).symlink_to(SETUP.parents[1] / name)
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}

    subprocess.run([SETUP, "none.txt"], cwd=checkout, env=environment, check=True)

    asked = subprocess.run([checkout / ".venv/bin/pip", "--version"], capture_output=True, text=True, check=True)
    assert str(tmp_path) in asked.stdout
    assert (checkout / ".venv/bin/agents").is_file()
    one_module = "import agent_system.core as below, core; print(below is core)"
    asked = subprocess.run(
        [checkout / ".venv/bin/python", "-c", one_module],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout == "True\n"
