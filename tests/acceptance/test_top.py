"""`agents top` on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.installation import Installation
from tests.waiting import until


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    with Installation.opened() as installation:
        installation.up()
        yield installation


def test_without_a_terminal_it_is_one_look_as_text(here: Installation) -> None:
    done = here.agents("top")
    assert done.returncode == 0, done.stderr
    assert re.search(r"worker-1 +active +0 +4", done.stdout)
    assert "\x1b" not in done.stdout


def test_as_json_it_has_what_is_shown(here: Installation) -> None:
    here.agents("submit", "hold", '"for-top"', "--id", "held")
    here.begun("for-top")
    shown = until(lambda: (now := here.json("top")) and now["running"] and now, "its worker has told that it runs")
    here.let_go("for-top")

    assert shown["agents"][0]["role"] == "coordinator"
    assert [line["task_id"] for line in shown["slowest"]] == ["held"]
    assert shown["open_tasks"] == 1


def quit_by_key(process: subprocess.Popen[bytes], terminal: int) -> None:
    os.write(terminal, b"q")


def interrupt(process: subprocess.Popen[bytes], terminal: int) -> None:
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("end", [quit_by_key, interrupt])
def test_on_a_terminal_it_is_drawn_sorted_resized_and_leaves_the_terminal_as_it_was(
    here: Installation, end: Callable[[subprocess.Popen[bytes], int], None]
) -> None:
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    os.set_blocking(terminal, False)
    before = termios.tcgetattr(theirs)
    environment = {**here.environment, "TERM": "xterm"}
    command = [sys.executable, "-m", "core.cli", "top", "--interval", "0.2"]
    seen = bytearray()

    def shows(text: str) -> bool:
        with suppress(BlockingIOError):
            seen.extend(os.read(terminal, 1 << 16))
        return text.encode() in seen

    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=here.directory)
    try:
        until(lambda: shows("4 agents, by tree"), "the agents are drawn")
        os.write(terminal, b"f")
        until(lambda: shows("4 agents, by failed"), "they are sorted")
        seen.clear()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        process.send_signal(signal.SIGWINCH)
        until(lambda: shows("4 agents, by failed"), "it is drawn again")
        end(process, terminal)
        until(lambda: shows("\x1b[?1049l") or process.poll() is not None, "it leaves the screen")
        assert process.wait(20) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(theirs)
