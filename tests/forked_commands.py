"""Runs `agents` commands, each as a process that is forked from one which has imported the libraries.

A command imports what is ours anew, as it would if Python had been started for it, but begins in a fifth of the time.
`python -m tests.forked_commands FD` is the process that forks.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from core.machine.forked import fork

__all__ = ["run_agents"]

#: What most commands import. A name that is missing here costs time and nothing else.
LIBRARIES = (
    "cryptography.hazmat.primitives.kdf.hkdf", "dotenv", "hiredis", "msgspec", "orjson", "platformdirs", "psutil",
    "pydantic_settings", "redis.asyncio", "rich.console", "rich.table", "typer",
)  # fmt: skip
#: A command that takes longer is ended by SIGALRM.
_TIMEOUT_S = 90


def run_agents(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`python -m core.cli ARGUMENTS`, run to its end in `directory`."""
    order = {"arguments": list(arguments), "directory": str(directory), "environment": dict(environment)}
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        exit_code = _ask(order, [given, out, err])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), exit_code, out.read(), err.read())


def _ask(order: dict[str, Any], streams: Sequence[TextIO]) -> int:
    answer, theirs = os.pipe()
    with open(answer) as answered:
        with open(theirs, "w") as answering:
            control = _forking()
            socket.send_fds(control, [b"\n"], [stream.fileno() for stream in (*streams, answering)])
            control.sendall(json.dumps(order).encode() + b"\n")
        return int(answered.read())


@cache
def _forking() -> socket.socket:
    """The connection to the process that forks, which ends when this process does."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.forked_commands", f"{theirs.fileno()}"]
        forking = subprocess.Popen(command, cwd=Path(__file__).parents[1], pass_fds=[theirs.fileno()])
    forking.returncode = 0  # nobody waits for it
    return ours


def _serve(control: socket.socket) -> None:
    orders = control.makefile("rb")
    while True:
        _, descriptors, *_ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            return
        *streams, answering = descriptors
        pid = fork(partial(_run, json.loads(orders.readline()), streams))
        _, status = os.waitpid(pid, 0)
        os.write(answering, f"{os.waitstatus_to_exitcode(status)}".encode())
        for descriptor in descriptors:
            os.close(descriptor)


def _run(order: dict[str, Any], streams: Sequence[int]) -> int:
    signal.alarm(_TIMEOUT_S)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 256)  # what is of the process that forks
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["directory"])
    sys.path[0] = order["directory"]
    sys.argv[1:] = order["arguments"]
    try:
        runpy.run_module("core.cli", run_name="__main__", alter_sys=True)
        return 0
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


if __name__ == "__main__":
    for library in LIBRARIES:
        import_module(library)
    _serve(socket.socket(fileno=int(sys.argv[1])))
