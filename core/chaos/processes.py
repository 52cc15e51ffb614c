"""Agents as processes, forked from one that has imported the tiers: starting one costs 30 ms, not most of a second.

The forkserver (`forkserver.py`) is a process of its own, so that whoever uses this may have threads and an event loop.
It ends with all agents when its user does: none outlives a test that was killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from core.module_names import module_name

__all__ = ["Processes"]

#: The forkserver imports everything within a second, on a busy machine some more.
_READY_S = 60.0
#: A line of the forkserver is read at once; this is for one that is held up.
_REPLY_S = 20.0


@dataclass(slots=True)
class _Process:
    pid: int
    log: Path
    exit_code: int | None = None  #: None: it lives; negative: ended by that signal


class Processes:
    """Agents by name. As a context manager: what still runs at the end is killed.

    Not for several threads at once. `directory` takes their logs, and is where they run; `environment` is theirs as a
    whole, and what a `start` gives goes before it; both hold for those that are started from now on.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = dict(environment)
        self._processes: dict[str, _Process] = {}
        self._unheard = b""  # of a line that has not ended
        self._replies: list[dict[str, Any]] = []
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._forkserver = subprocess.Popen(
                [sys.executable, "-m", module_name("core.chaos.forkserver"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reply("ready", _READY_S)

    def start(
        self, role: str, agent_id: str, *flags: str, name: str = "", environment: Mapping[str, str] | None = None
    ) -> int:
        """Starts `python -m ROLE --id AGENT_ID FLAGS`; returns its pid.

        `name`, by default the agent's id, tells several processes of one id apart; one that has ended can be started
        again under its name."""
        name = name or agent_id
        assert not self.alive(name), f"{name} runs already"
        log = self.directory / f"{name}.log"
        order = {
            "name": name,
            "module": module_name(f"{role}.__main__"),
            "argv": ["--id", agent_id, *flags],
            "environment": {**self.environment, **(environment or {})},
            "directory": str(self.directory),
            "log": str(log),
        }
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        pid = int(self._reply("started", _REPLY_S)["started"])
        self._processes[name] = _Process(pid, log)
        return pid

    def names(self) -> list[str]:
        """Of all that were started, in that order."""
        return list(self._processes)

    def pid(self, name: str) -> int:
        """Of the last process of that name, whether or not it lives."""
        return self._processes[name].pid

    def exit_code(self, name: str) -> int | None:
        """None: it runs; negative: ended by that signal. It is not waited for."""
        self._hear(0)
        return self._processes[name].exit_code

    def alive(self, name: str) -> bool:
        """Whether it runs, or is stopped."""
        return name in self._processes and self.exit_code(name) is None

    def wait(self, name: str, timeout_s: float = 30) -> int:
        """The exit code, once it has ended. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while (code := self.exit_code(name)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{name} has not ended within {timeout_s:g} s")
            self._hear(left_s)
        return code

    def kill(self, name: str) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(name, signal.SIGKILL)
        self.wait(name)

    def kill_all(self, *names: str) -> None:
        """SIGKILL to those of these that live, by default of all, in one go; returns when they are gone."""
        living = [name for name in names or self._processes if self.alive(name)]
        for name in living:
            self.signal(name, signal.SIGKILL)
        for name in living:
            self.wait(name)

    def forget_all(self) -> None:
        """Kills all; as if none had ever been started."""
        self.kill_all()
        self._processes.clear()

    def terminate(self, name: str) -> None:
        self.signal(name, signal.SIGTERM)

    def stop(self, name: str) -> None:
        """SIGSTOP; returns when it stands still."""
        self.signal(name, signal.SIGSTOP)
        while self.alive(name) and not self.stopped(name):
            time.sleep(0.001)

    def cont(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: int) -> None:
        """Nothing happens to one that has ended."""
        if self.alive(name):
            with suppress(ProcessLookupError):
                os.kill(self._processes[name].pid, number)

    def stopped(self, name: str) -> bool:
        """Whether it stands still, by SIGSTOP or by a failpoint's `stop`."""
        if not self.alive(name):
            return False
        try:
            return bool(psutil.Process(self._processes[name].pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def log_file(self, name: str) -> Path:
        return self._processes[name].log

    def log(self, name: str) -> str:
        """What all processes of that name have said."""
        return self.log_file(name).read_text(errors="replace")

    def close(self) -> None:
        """Kills all agents; returns when they and the forkserver are gone."""
        self._socket.close()
        self._forkserver.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply(self, what: str, timeout_s: float) -> dict[str, Any]:
        deadline_s = time.monotonic() + timeout_s
        while not self._replies:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"the process that forks agents did not say {what!r} within {timeout_s:g} s")
            self._hear(left_s)
        return self._replies.pop(0)

    def _hear(self, timeout_s: float) -> None:
        """Takes what the forkserver has said; waits so long for the first of it."""
        while select.select([self._socket], [], [], timeout_s)[0]:
            said = self._socket.recv(1 << 16)
            if not said:
                raise RuntimeError(f"the process that forks agents ended with {self._forkserver.wait()}")
            *lines, self._unheard = (self._unheard + said).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            timeout_s = 0

    def _take(self, message: dict[str, Any]) -> None:
        if "exited" not in message:
            self._replies.append(message)
            return
        for process in self._processes.values():
            if process.pid == message["exited"] and process.exit_code is None:
                process.exit_code = message["code"]
