"""Processes of a system under test, and what they have cost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["ProcessGroup", "cpu_s", "family", "memory_mb", "shared_memory_mb"]

ROOT = Path(__file__).parents[2]


class ProcessGroup:
    """Python programs by role, each in a session of its own, their output in one file per role."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = {**_without_settings(), **environment, "PYTHONPATH": str(ROOT)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """Those that still run."""
        return {role: psutil.Process(started.pid) for role, started in self._running.items() if started.poll() is None}

    def start(self, role: str, *arguments: str) -> None:
        with (self._directory / f"{role}.log").open("wb") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, *arguments],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, role: str) -> None:
        """SIGKILL to one, which has ended afterwards."""
        self._running[role].kill()
        self._running[role].wait()

    def complain_if_one_ended(self) -> None:
        for role, running in self._running.items():
            if running.poll() is not None:
                log = (self._directory / f"{role}.log").read_text(errors="replace")
                raise RuntimeError(f"{role} ended with {running.returncode}:\n{log[-3000:]}")

    def close(self) -> None:
        """SIGTERM, and after five seconds SIGKILL to whatever is left of them and their children."""
        everybody = [process for started in self.processes.values() for process in family(started)]
        for running in self._running.values():
            running.terminate()
        _, left = psutil.wait_procs(everybody, timeout=5)
        for process in left:
            process.kill()
        for running in self._running.values():
            running.wait()


def _without_settings() -> dict[str, str]:
    """The environment without what configures us: the defaults are measured."""
    ours = ("REDIS_", "A2A_", "AGENT_", "WORKER_", "TASK_", "COORDINATOR_", "DISTRIBUTOR_", "LOG_", "LANGSMITH_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def family(process: psutil.Process) -> Iterator[psutil.Process]:
    """The process and all below it that live."""
    try:
        yield from (process, *process.children(recursive=True))
    except psutil.NoSuchProcess:
        return


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU, user and system, of the process and of all below it, the ended ones too."""
    used = [member.cpu_times() for member in family(process)]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in used))


def memory_mb(process: psutil.Process) -> float:
    """Resident memory of the process and of all below it; what they share counts once for each."""
    return float(sum(member.memory_info().rss for member in family(process)) / 1e6)


def shared_memory_mb(process: psutil.Process) -> float:
    """Memory of the process and of all below it; what processes share counts for each in part (PSS)."""
    total = 0
    for member in family(process):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_full_info().pss
    return total / 1e6
