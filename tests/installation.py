"""A user's own corner of the machine: a directory with tasks, data and server of its own, and the `agents` command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.forked_commands import run_agents
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until

__all__ = ["Installation"]

#: `hold` begins (and says so) and ends when a file is there, so that a test decides how long it runs.
TASKS = """
import asyncio
from pathlib import Path
from worker.authoring.context import Context
from worker.authoring.handlers import task

@task("echo")
async def echo(payload):
    return payload

@task("boom", retries=0)
async def boom(payload):
    raise ValueError(f"no good: {payload}")

@task("hold", retries=5)
async def hold(name: str, ctx: Context):
    Path(f"{name}.begun").write_text(f"{ctx.attempt}")
    while not Path(f"{name}.go").exists():
        await asyncio.sleep(0.01)
    return {"attempt": ctx.attempt}
"""


class Installation:
    """Start with `Installation.opened()`. What it has started is gone at the end."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = {**os.environ, "AGENT_DATA_DIR": str(directory / "data"), **environment}

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        """With a server of its own, which dies with the test process."""
        directory = Path(tempfile.mkdtemp(prefix="ai-", dir="/tmp"))
        (directory / "tasks.py").write_text(TASKS)
        with RedisServer(bundled_server()) as server:
            here = cls(directory, server.environment)
            try:
                yield here
            finally:
                here._kill_supervisors()
                shutil.rmtree(directory)

    def agents(self, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end. Python is started for one that begins a hierarchy or tells Python something."""
        everything = {**self.environment, **environment}
        if arguments[:1] != ("up",) and not any(name.startswith("PYTHON") for name in environment):
            return run_agents(arguments, self.directory, everything, stdin)
        return subprocess.run(
            [sys.executable, "-m", "core.cli", *arguments],
            cwd=self.directory,
            env=everything,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts `python -m ...` and does not wait; its stdout and stderr come together."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json. Fails the test when it fails."""
        done = self.agents(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A detached hierarchy with the tasks of TASKS, at work. Fails the test when it does not start."""
        done = self.agents("up", "--import", "./tasks.py", "--detach", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    def begun(self, name: str) -> str:
        """Waits until `hold` with that name has begun; returns its attempt."""
        path = self.directory / f"{name}.begun"
        until(lambda: path.exists() and path.read_text(), f"the task {name} has begun")
        return path.read_text()

    def let_go(self, name: str) -> None:
        """Lets `hold` with that name end."""
        (self.directory / f"{name}.go").touch()

    def record(self) -> dict[str, Any]:
        """The record of the one hierarchy there is."""
        [path] = (self.directory / "data" / "hierarchies").glob("*.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record

    def pids(self) -> dict[str, int]:
        """The pids of the agents, by `role:id`."""
        return {f"{agent['role']}:{agent['agent_id']}": agent["pid"] for agent in self.record()["agents"]}

    def agent_health(self) -> dict[str, str]:
        return {agent["agent_id"]: agent["health"] for agent in self.json("status")["agents"]}

    def _kill_supervisors(self) -> None:
        for path in (self.directory / "data" / "hierarchies").glob("*.json"):
            record = json.loads(path.read_text())
            for pid in (record["pid"], *(agent["pid"] for agent in record["agents"])):
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    if "up" in process.cmdline():  # of the command; what it forked keeps its arguments
                        process.send_signal(signal.SIGKILL)
                        with suppress(psutil.TimeoutExpired):
                            process.wait(5)
