"""The hierarchy of the demo: it starts and watches it, ends it, and cleans up."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any

from core.client.server import Server
from core.config.settings import AgentConfig
from core.config.sources import load
from core.errors import AgentSystemError, TaskFailed
from core.local.hierarchy import LocalHierarchy
from core.module_names import module_name
from core.operations.erase import erase_hierarchy
from core.operations.reader import Reader, reading
from core.operations.task_records import newest_tasks
from core.pictures.hierarchy import AgentBox, Traffic
from core.pictures.live import LiveView
from core.pictures.task_lanes import Attempt, Mark
from core.tasks import Task, TaskStatus
from core.wiring import server_for
from examples.census.options import Options
from examples.census.report import TaskCounts
from examples.census.trail import attempts_of
from examples.census.watch import POLL_S, Watch
from examples.ctrl_c import end_as_by_ctrl_c

__all__ = ["Hierarchy", "Seen", "hierarchy"]

STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The work of a hierarchy from its start to the end of its job."""

    counts: TaskCounts
    wall_s: float
    attempts: Sequence[Attempt]
    marks: Sequence[Mark]
    agents: Sequence[AgentBox]
    traffic: Sequence[Traffic]


class Hierarchy:
    """A running hierarchy."""

    def __init__(
        self, coordinator_id: str, options: Options, view: LiveView, reader: Reader, server: Server | None = None
    ) -> None:
        self.coordinator_id = coordinator_id
        self.server = server  #: of its clients; None: the configured Redis
        self._reader = reader
        self._watch = Watch(coordinator_id, options.kill, view)
        self._started_s = time.monotonic()
        self._wall_s = 0.0

    async def watched(self, job: Coroutine[Any, Any, Any]) -> Any:
        """Awaits `job`, and returns its result. Meanwhile it shows the hierarchy, and kills one agent if requested."""
        running = asyncio.create_task(job)
        try:
            while not running.done():
                self._watch.strike(await self._watch.look(self._reader))
                await asyncio.wait([running], timeout=POLL_S)
            return running.result()
        finally:
            running.cancel()
            self._wall_s = time.monotonic() - self._started_s

    async def seen(self) -> Seen:
        """The state of every task, its attempts, and the message traffic. Raises TaskFailed when a task did not
        complete."""
        await self._watch.last_heartbeats(self._reader)
        tasks = [task async for task in newest_tasks(self._reader, self.coordinator_id) if isinstance(task, Task)]
        failed = next((task for task in tasks if task.status is not TaskStatus.COMPLETED), None)
        if failed is not None:
            raise TaskFailed(failed.task_id, failed.status)
        attempts = await attempts_of(self._reader, self._watch.distributors())
        retried = sum(attempt.outcome in ("lost", "failed") for attempt in attempts)
        return Seen(
            counts=TaskCounts(len(tasks), len(tasks), 0, retried),
            wall_s=self._wall_s,
            attempts=attempts,
            marks=self._watch.marks,
            agents=self._watch.boxes(),
            traffic=self._watch.traffic(),
        )


@asynccontextmanager
async def hierarchy(options: Options, view: LiveView, handlers: str) -> AsyncIterator[Hierarchy]:
    """A coordinator with its distributors and workers, which import the file `handlers`, or share this process.

    Its ids are unique, and it leaves nothing in Redis. Raises TransportDown or ConfigError when it cannot be started.
    """
    end_as_by_ctrl_c()
    coordinator_id = f"census-{secrets.token_hex(3)}"
    kind = (
        _in_this_process(coordinator_id, options, view)
        if options.local
        else _of_processes(coordinator_id, options, view, handlers)
    )
    async with kind as started:
        yield started


@asynccontextmanager
async def _in_this_process(coordinator_id: str, options: Options, view: LiveView) -> AsyncIterator[Hierarchy]:
    """Its workers run what this process has registered, so nothing is imported."""
    local = LocalHierarchy(
        workers=options.workers,
        distributors=options.distributors,
        coordinator_id=coordinator_id,
        config=AgentConfig(concurrency=1),
    )
    async with local, local.server.reading() as reader:
        view.say(f"coordinator {coordinator_id} and its hierarchy are in this process, without a server")
        yield Hierarchy(coordinator_id, options, view, reader, local.server)


@asynccontextmanager
async def _of_processes(
    coordinator_id: str, options: Options, view: LiveView, handlers: str
) -> AsyncIterator[Hierarchy]:
    settings = load()
    redis = await server_for(settings.redis, settings.a2a)
    with tempfile.TemporaryFile() as log:
        supervisor = _start(coordinator_id, options, handlers, log)
        try:
            async with reading(redis) as reader:
                try:
                    view.say(f"starting coordinator {coordinator_id} and its hierarchy")
                    view.say(f"to follow its events: COORDINATOR_ID={coordinator_id} agents events tail")
                    yield Hierarchy(coordinator_id, options, view, reader)
                except AgentSystemError:
                    if supervisor.poll() is not None:
                        view.say(f"the hierarchy ended, and said last:\n{_tail(log)}")
                    raise
                finally:
                    await asyncio.to_thread(_stop, supervisor)
                    await erase_hierarchy(reader, coordinator_id)
        finally:
            _stop(supervisor)


def _start(coordinator_id: str, options: Options, handlers: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", module_name("core.cli"), "up", "--concurrency", "1"),
            *("--import", os.path.abspath(handlers)),
            *("--distributors", str(options.distributors), "--workers", str(options.workers)),
        ],
        env={**os.environ, "COORDINATOR_ID": coordinator_id},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # this process passes Ctrl-C on
    )


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    """Drains the hierarchy. If it does not end, it is killed with its agents."""
    if supervisor.poll() is not None:
        return
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(STOP_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read()[-4000:].decode(errors="replace")
