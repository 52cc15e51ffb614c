"""Processes that are forked, or tied to their parent: how they end, and what their parent hears."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

ROOT = Path(__file__).parents[2]

FORKS = """
import os, sys
from core.machine.forked import fork, fork_detached

def leaves():
    sys.exit(4)

def breaks():
    raise ValueError("no good")

def detached(run):
    return fork_detached(run, stdout=None, stderr=None)

for start in (fork, detached):
    for run in (lambda: 0, lambda: 3, leaves, breaks):
        print(os.waitstatus_to_exitcode(os.waitpid(start(run), 0)[1]), flush=True)
"""

SIGNALS = """
import os, select, signal
from core.machine.forked import fork
from core.machine.signal_socket import SignalSocket

signals = SignalSocket(signal.SIGTERM, signal.SIGHUP)
print(signals.take() == b"")
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)
print(bool(select.select([signals], [], [], 10)[0]), list(signals.take()), signals.take() == b"")

def child():
    signals.close()
    os.kill(os.getpid(), signal.SIGHUP)
    return 0

print(os.waitpid(fork(child), 0)[1], signals.take() == b"")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_a_fork_ends_with_what_its_function_returns_and_says_what_it_raises() -> None:
    ran = run(FORKS)

    assert ran.stdout.split() == ["0", "3", "4", "70"] * 2
    assert ran.stderr.count("ValueError: no good") == 2


def test_signals_are_read_in_their_order_once_and_by_no_child_that_has_let_go_of_them() -> None:
    ran = run(SIGNALS)

    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["True", "True [1, 15, 1] True", "0 True"]


def exec_with_parent(parent: str, *command: str) -> list[str]:
    return [sys.executable, "-m", "core.machine.exec_with_parent", parent, *command]


def test_what_is_tied_to_a_parent_that_has_ended_does_not_begin() -> None:
    ran = subprocess.run(exec_with_parent("0", "/bin/echo", "begun"), cwd=ROOT, capture_output=True, timeout=30)

    assert (ran.stdout, ran.returncode) == (b"", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not end it")
def test_what_is_tied_to_its_parent_is_killed_with_it() -> None:
    starts = f"""
import os, subprocess
command = [*{exec_with_parent("PARENT", "/bin/sleep", "600")}]
command[3] = str(os.getpid())
print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, flush=True)
input()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", starts], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdin
    about = Path(f"/proc/{int(parent.stdout.readline())}")
    until(lambda: b"sleep" in (about / "cmdline").read_bytes()[:12], "it has become the command")

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    until(lambda: not about.exists() or "\nState:\tZ" in (about / "status").read_text(), "it has ended as well")
    parent.stdin.close()
    parent.stdout.close()
