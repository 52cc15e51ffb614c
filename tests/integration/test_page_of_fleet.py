"""What docs/fleet.md shows is true: its session runs as it stands, and its table is what the gateway has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from core.chaos.processes import Processes
from tests.gateways import gateways_of
from tests.pages import FLEET, sample_of, section_of_endpoints


def test_the_table_of_endpoints_is_what_the_gateway_has() -> None:
    assert f"\n\n{section_of_endpoints()}\n" in FLEET.read_text(), "run python -m tests.pages"


def steps() -> list[tuple[str, str]]:
    """The commands of the session, each with what it prints."""
    found = re.search(r"^```console\n(.*?)^```", FLEET.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    commands = found[1].split("$ ", 1)[1].split("\n$ ")
    return [(command, output) for command, _, output in (step.strip().partition("\n") for step in commands)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_session_runs_as_it_stands(tmp_path: Path, processes: Processes) -> None:
    (tmp_path / "mytasks.py").write_text(sample_of("README.md", "Your own task, in five lines"))
    with gateways_of(processes, tmp_path, str(tmp_path / "mytasks.py")) as gateways:
        environment = {**os.environ, "GATEWAY": gateways.start()}
        for command, output in steps():
            said = subprocess.run(
                ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=40
            )
            pattern = re.sub(r"([\[\]?*])", r"[\1]", output).replace("...", "*")
            assert fnmatchcase(said.stdout.strip(), pattern), (command, said.stdout, said.stderr)
