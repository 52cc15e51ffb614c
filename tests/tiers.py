"""The tiers as separate processes, started, signalled and ended by a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from core.chaos.processes import Processes
from core.config.settings import A2ASecrets, RedisConfig
from core.config.variables import secret_text

__all__ = ["SECRET", "ForkedTiers", "Tiers"]

SECRET = "a secret of the tests, long enough"

#: Fast enough to see a recovery, slow enough for a busy machine.
TIMINGS = {"AGENT_HEARTBEAT_S": "0.3", "AGENT_FAILURE_TIMEOUT_S": "2", "AGENT_LEASE_S": "3", "LOG_FORMAT": "json"}


class Tiers:
    """Processes by agent id; what still runs at the end is killed."""

    def __init__(self, redis: RedisConfig, directory: Path, **environment: str) -> None:
        self.redis = redis
        self.secrets = A2ASecrets(token_secret=SECRET)
        self._directory = directory
        self._environment = {
            **os.environ,
            **TIMINGS,
            "REDIS_URL": secret_text(redis.url) or "",
            "REDIS_PASSWORD": secret_text(redis.password) or "",
            "REDIS_MODE": "external",
            "A2A_TOKEN_SECRET": SECRET,
            **environment,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, agent_id: str, *flags: str, **environment: str) -> None:
        """Starts `python -m ROLE --id AGENT_ID FLAGS`, in the test's directory."""
        with self.log_file(agent_id).open("ab") as log:
            self._running[agent_id] = subprocess.Popen(
                [sys.executable, "-m", role, "--id", agent_id, *flags],
                env={**self._environment, **environment},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, agent_id: str) -> None:
        """SIGKILL; returns when the process is gone."""
        self._running[agent_id].kill()
        self._running[agent_id].wait()

    def terminate(self, agent_id: str) -> None:
        self._running[agent_id].send_signal(signal.SIGTERM)

    def exit_code(self, agent_id: str, timeout_s: float = 60) -> int:
        """Waits for the end of a process."""
        return self._running[agent_id].wait(timeout_s)

    def runs(self, agent_id: str) -> bool:
        return self._running[agent_id].poll() is None

    def pid(self, agent_id: str) -> int:
        return self._running[agent_id].pid

    def log_file(self, agent_id: str) -> Path:
        return self._directory / f"{agent_id}.log"

    def log(self, agent_id: str) -> str:
        return self.log_file(agent_id).read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running.values():
            running.kill()
            running.wait()


class ForkedTiers(Tiers):
    """The same, forked from one process that has imported the tiers, which costs a fiftieth of starting Python. It is
    for tests that are neither about how Python begins, finds modules and ends, nor about what a process began with."""

    def __init__(self, processes: Processes, redis: RedisConfig, directory: Path, **environment: str) -> None:
        super().__init__(redis, directory, **environment)
        processes.directory, processes.environment = directory, {}
        self._processes = processes

    def start(self, role: str, agent_id: str, *flags: str, **environment: str) -> None:
        self._processes.start(role, agent_id, *flags, environment={**self._environment, **environment})

    def kill(self, agent_id: str) -> None:
        self._processes.kill(agent_id)

    def terminate(self, agent_id: str) -> None:
        self._processes.terminate(agent_id)

    def exit_code(self, agent_id: str, timeout_s: float = 60) -> int:
        return self._processes.wait(agent_id, timeout_s)

    def runs(self, agent_id: str) -> bool:
        return self._processes.alive(agent_id)

    def pid(self, agent_id: str) -> int:
        return self._processes.pid(agent_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.forget_all()
