"""What may be imported by whoever needs it for its functions: each program of ours, by the process it has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("coordinator", "core", "distributor", "worker", "tests")

IMPORT_ALL = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv[1:] = ["up"]
    runpy.run_path(path, run_name="__mp_main__")
"""


def test_importing_an_entry_point_starts_nothing(tmp_path: Path) -> None:
    """As multiprocessing does in each process that it starts anew, with the arguments of who starts it."""
    _, _, rest = (ROOT / ".ci" / "setup").read_text().partition("<<'SCRIPT'\n")
    command = tmp_path / "agents"
    command.write_text(rest.partition("\nSCRIPT\n")[0])
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    programs = [path for path in sources if path.name == "__main__.py" or "if __name__ ==" in path.read_text()]
    assert len(programs) > 8

    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, command, ROOT / "example_e2e.py", *programs],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_example_runs_on_the_agent_system_of_its_checkout_whatever_else_is_installed(tmp_path: Path) -> None:
    (tmp_path / "agent_system.py").write_text("raise SystemExit('this one is installed')")
    ran = subprocess.run(
        [sys.executable, ROOT / "example_e2e.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout.startswith("usage: example_e2e.py"), ran.stderr
