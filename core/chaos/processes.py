"""Runs agents as processes that are forked from one that has imported the tiers, in 30 ms instead of almost a second.

The forkserver (`forkserver.py`) is a separate process, so that its user may have threads and an event loop. It ends
with its user, and kills all agents, so that none outlives a test that is killed.
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

#: Seconds that the forkserver may take to import everything. It mostly takes one, and more on a busy machine.
_READY_S = 60.0
#: Seconds to wait for the rest of a line from the forkserver.
_REPLY_S = 20.0


@dataclass(slots=True)
class _Process:
    pid: int
    log: Path
    exit_code: int | None = None  #: None: it lives; negative: ended by that signal


class Processes:
    """Agents by name. Use it as a context manager: at the end all running agents are killed.

    It is not safe for several threads at once. Agents run in `directory`, which also gets their logs. `environment` is
    their whole environment, except for variables that `start` overrides. Changes of both apply to later starts.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = dict(environment)
        self._processes: dict[str, _Process] = {}
        self._unheard = b""  # the beginning of an unfinished line
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
        """Starts `python -m ROLE --id AGENT_ID FLAGS`, and returns its pid.

        `name`, by default the agent's id, distinguishes several processes with one id. When a process has ended, its
        name can be used again."""
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
        """The names of all agents that were started, in that order."""
        return list(self._processes)

    def pid(self, name: str) -> int:
        """The pid of the latest process with that name, whether or not it lives."""
        return self._processes[name].pid

    def exit_code(self, name: str) -> int | None:
        """The exit code, without waiting for it; None: it runs; negative: that signal ended it."""
        self._hear(0)
        return self._processes[name].exit_code

    def alive(self, name: str) -> bool:
        """Whether it runs or is stopped."""
        return name in self._processes and self.exit_code(name) is None

    def wait(self, name: str, timeout_s: float = 30) -> int:
        """Waits for the end of an agent, and returns the exit code. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while (code := self.exit_code(name)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{name} has not ended within {timeout_s:g} s")
            self._hear(left_s)
        return code

    def kill(self, name: str) -> None:
        """Sends SIGKILL, and returns when the process is gone."""
        self.signal(name, signal.SIGKILL)
        self.wait(name)

    def kill_all(self, *names: str) -> None:
        """Sends SIGKILL to all of these agents that live, by default to all, and returns when they are gone."""
        living = [name for name in names or self._processes if self.alive(name)]
        for name in living:
            self.signal(name, signal.SIGKILL)
        for name in living:
            self.wait(name)

    def forget_all(self) -> None:
        """Kills all agents, and forgets them."""
        self.kill_all()
        self._processes.clear()

    def terminate(self, name: str) -> None:
        self.signal(name, signal.SIGTERM)

    def stop(self, name: str) -> None:
        """Sends SIGSTOP, and returns when the process is stopped."""
        self.signal(name, signal.SIGSTOP)
        while self.alive(name) and not self.stopped(name):
            time.sleep(0.001)

    def cont(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: int) -> None:
        """Sends a signal; does nothing if the process has ended."""
        if self.alive(name):
            with suppress(ProcessLookupError):
                os.kill(self._processes[name].pid, number)

    def stopped(self, name: str) -> bool:
        """Whether it is stopped, by SIGSTOP or by the `stop` of a failpoint."""
        if not self.alive(name):
            return False
        try:
            return bool(psutil.Process(self._processes[name].pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def log_file(self, name: str) -> Path:
        return self._processes[name].log

    def log(self, name: str) -> str:
        """The output of all processes with that name."""
        return self.log_file(name).read_text(errors="replace")

    def close(self) -> None:
        """Kills all agents, and returns when they and the forkserver are gone."""
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
        """Handles the messages of the forkserver. It waits up to this time for the first one."""
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
