"""The examples, ended from outside while their hierarchies are at work."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.installation import Installation
from tests.waiting import until


@pytest.mark.parametrize(
    ("command", "number"),
    [(["-m", "examples.research_team"], signal.SIGTERM), (["example_e2e.py"], signal.SIGHUP)],
    ids=["team", "census"],
)
def test_an_example_that_is_ended_leaves_nothing_running(command: Sequence[str], number: signal.Signals) -> None:
    with Installation.opened() as here:
        example = subprocess.Popen(
            [sys.executable, *command],
            cwd=Path(__file__).parents[2],
            env=here.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        process = psutil.Process(example.pid)
        until(lambda: len(process.children(recursive=True)) >= 4, "its hierarchy runs", 60)  # a supervisor and 3 agents
        started = process.children(recursive=True)

        example.send_signal(number)
        said, _ = example.communicate(timeout=60)
        assert (example.returncode, said.splitlines()[-1]) == (130, b"interrupted")
        until(lambda: not any(each.is_running() for each in started), "what it started has ended")
