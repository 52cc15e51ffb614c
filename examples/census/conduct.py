"""Has the census taken by a hierarchy of its own: starts it, watches it, kills one agent if asked to, cleans up."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from core.client.agent_client import AgentClient
from core.config.sources import load
from core.errors import AgentSystemError, TaskFailed
from core.module_names import module_name
from core.operations.erase import erase_hierarchy
from core.operations.overview import read_overview
from core.operations.reader import Reader, reading
from core.operations.task_records import newest_tasks
from core.overview import AgentView, Overview
from core.pictures.hierarchy import AgentBox, Traffic
from core.pictures.live import AgentRow, LiveView, Snapshot
from core.pictures.task_lanes import Attempt, Mark
from core.roles import Role
from core.tasks import Task, TaskStatus
from core.wiring import server_for
from examples.census.merge import Census
from examples.census.plan import PlanRequest, chunks_for
from examples.census.trail import attempts_of

__all__ = ["Conducted", "Victim", "conduct"]

Victim = Literal["worker", "distributor"]

LOOK_S = 0.1
#: The hierarchy must answer within this time; it takes a second, on a busy machine some more.
START_S = 60.0
#: The share of the reviews that are done when the victim is killed: in the middle, and everybody still has work.
KILL_AT = 0.25
STOP_S = 60.0


@dataclass(slots=True)
class Conducted:
    """What came of it, and what was seen on the way."""

    census: Census
    tasks: Sequence[Task]
    wall_s: float
    attempts: Sequence[Attempt]
    marks: Sequence[Mark]
    agents: Sequence[AgentBox]
    traffic: Sequence[Traffic]


@dataclass(slots=True)
class _Watch:
    """What has been seen so far."""

    marks: list[Mark] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    #: by agent and start: the last heartbeat of each, so that what a killed process had sent is not forgotten
    last: dict[tuple[str, int], AgentView] = field(default_factory=dict)
    done_before: dict[str, tuple[float, int, float]] = field(default_factory=dict)  #: agent -> (when, done, rate)


async def conduct(root: str, *, distributors: int, workers: int, kill: Victim | None, view: LiveView) -> Conducted:
    """Takes the census of `root`, a path as `tree.to_text` gives it.

    The hierarchy has ids nobody else uses, and leaves nothing in Redis. Raises TaskFailed when the job failed;
    TransportDown, ConfigError when there is no hierarchy to be had.
    """
    settings = load()
    coordinator_id = f"census-{secrets.token_hex(3)}"
    redis = await server_for(settings.redis, settings.a2a)
    with tempfile.TemporaryFile() as log:
        supervisor = _start(coordinator_id, distributors, workers, log)
        try:
            async with reading(redis) as reader, AgentClient(redis, settings.a2a, coordinator_id) as client:
                try:
                    return await _take(root, workers, kill, view, coordinator_id, reader, client)
                except AgentSystemError:
                    if supervisor.poll() is not None:
                        view.say(f"the hierarchy ended, and said last:\n{_tail(log)}")
                    raise
                finally:
                    await asyncio.to_thread(_stop, supervisor)
                    await erase_hierarchy(reader, coordinator_id)
        finally:
            _stop(supervisor)


def _start(coordinator_id: str, distributors: int, workers: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", module_name("core.cli"), "up", "--concurrency", "1"),
            *("--import", module_name("examples.census.tasks")),
            *("--distributors", str(distributors), "--workers", str(workers)),
        ],
        env={**os.environ, "COORDINATOR_ID": coordinator_id},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is ours to pass on
    )


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    """Drains the hierarchy; one that does not end is killed, and its agents with it."""
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


async def _take(
    root: str,
    workers: int,
    kill: Victim | None,
    view: LiveView,
    coordinator_id: str,
    reader: Reader,
    client: AgentClient,
) -> Conducted:
    view.say(f"starting coordinator {coordinator_id} and its hierarchy")
    started_s = time.monotonic()
    request = PlanRequest(root=root, chunks=chunks_for(workers))
    task_id = await client.submit.aio(Task(task_type="census.plan", payload=request.model_dump()), START_S)
    job = asyncio.create_task(client.value.aio(task_id))
    watch = _Watch()
    try:
        while not job.done():
            overview = await read_overview(reader, coordinator_id)
            _look(watch, overview, view)
            if kill and not watch.killed:
                _strike(watch, overview, kill, view)
            await asyncio.wait([job], timeout=LOOK_S)
        census = Census.model_validate(job.result())
    finally:
        job.cancel()
    wall_s = time.monotonic() - started_s
    if kill and not watch.killed:
        view.say(f"no {kill} was killed: the job was over before its middle was seen; give it a larger tree")
    await _last_heartbeats(watch, reader, coordinator_id, view)
    tasks = [task async for task in newest_tasks(reader, coordinator_id) if isinstance(task, Task)]
    failed = next((task for task in tasks if task.status is not TaskStatus.COMPLETED), None)
    if failed is not None:
        raise TaskFailed(failed.task_id, failed.status)
    cells = sorted({agent.agent_id for agent in watch.last.values() if agent.role is Role.DISTRIBUTOR})
    return Conducted(
        census=census,
        tasks=tasks,
        wall_s=wall_s,
        attempts=await attempts_of(reader, cells),
        marks=watch.marks,
        agents=_boxes(watch, coordinator_id),
        traffic=_traffic(watch),
    )


def _look(watch: _Watch, overview: Overview, view: LiveView) -> None:
    """Notes the heartbeats, and shows where the job stands."""
    for agent in overview.agents:
        if agent.beat:
            watch.last[agent.agent_id, agent.beat.started_ms] = agent
    done = overview.ended_tasks
    rows = [_row(watch, agent, overview) for agent in overview.agents if agent.beat or agent.role is Role.COORDINATOR]
    retried = sum(agent.beat.retried for agent in watch.last.values() if agent.beat)
    view.show(Snapshot(rows, done, done + overview.open_tasks, retried=retried))


def _row(watch: _Watch, agent: AgentView, overview: Overview) -> AgentRow:
    """A coordinator sends no heartbeat: what it has done are the tasks that have ended."""
    name, role, state = _short(agent.agent_id), agent.role.value, agent.health.value
    if agent.agent_id in watch.killed and state == "active":
        state = "restarted"
    if agent.beat is None:
        rate = _rate(watch, agent.agent_id, overview.ended_tasks)
        return AgentRow(name, role, state, overview.open_tasks, overview.ended_tasks, 0, rate)
    in_flight = len(agent.beat.holding) if agent.role is Role.WORKER else agent.beat.running
    done = _done(watch, agent.agent_id)
    return AgentRow(name, role, state, in_flight, done, agent.beat.failed, _rate(watch, agent.agent_id, done))


def _rate(watch: _Watch, agent_id: str, done: int) -> float:
    """Tasks a second between the last two looks that differ."""
    now_s = time.monotonic()
    then_s, before, rate = watch.done_before.get(agent_id, (now_s, done, 0.0))
    if done != before:
        rate = max(0.0, (done - before) / max(now_s - then_s, LOOK_S))
    if done != before or agent_id not in watch.done_before:
        watch.done_before[agent_id] = (now_s, done, rate)
    return rate


def _strike(watch: _Watch, overview: Overview, victim: Victim, view: LiveView) -> None:
    """Kills an agent that has work, once a quarter of the tasks have ended."""
    if overview.ended_tasks < max(1, KILL_AT * (overview.ended_tasks + overview.open_tasks)):
        return
    busy = [
        agent
        for agent in overview.of_role(Role(victim))
        if agent.pid is not None and agent.beat and (agent.beat.holding or agent.beat.running)
    ]
    if busy:
        agent = busy[0]
        assert agent.pid is not None
        os.kill(agent.pid, signal.SIGKILL)
        watch.marks.append(Mark(overview.at.timestamp(), f"{_short(agent.agent_id)} killed"))
        watch.killed.add(agent.agent_id)
        view.say(f"killed {_short(agent.agent_id)} (process {agent.pid}) with SIGKILL")


async def _last_heartbeats(watch: _Watch, reader: Reader, coordinator_id: str, view: LiveView) -> None:
    """One more heartbeat of everybody, so that the counts are complete."""
    seen = {key: agent.beat.beat for key, agent in watch.last.items() if agent.beat}
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        overview = await read_overview(reader, coordinator_id)
        _look(watch, overview, view)
        beats = [(agent.agent_id, agent.beat) for agent in overview.agents if agent.beat and agent.up]
        if all(beat.beat > seen.get((agent_id, beat.started_ms), 0) for agent_id, beat in beats):
            return
        await asyncio.sleep(LOOK_S)


def _boxes(watch: _Watch, coordinator_id: str) -> list[AgentBox]:
    boxes = [AgentBox(coordinator_id, "coordinator", None)]
    for (agent_id, _), agent in watch.last.items():
        assert agent.beat
        remark = "killed, restarted" if agent_id in watch.killed else ""
        counts = {"done": _done(watch, agent_id), "failed": agent.beat.failed}
        parent = agent.chain[-2].agent_id
        boxes = [box for box in boxes if box.agent_id != _short(agent_id)]
        boxes.append(AgentBox(_short(agent_id), agent.role.value, _short(parent), counts, remark))
    return sorted(boxes, key=lambda box: box.agent_id)


def _done(watch: _Watch, agent_id: str) -> int:
    """Tasks that were completed there, over all its starts, as far as each has told."""
    return sum(agent.beat.done for (name, _), agent in watch.last.items() if name == agent_id and agent.beat)


def _traffic(watch: _Watch) -> list[Traffic]:
    """Both directions of each link, as the lower end has counted them, over all its starts."""
    sums: dict[tuple[str, str, str], int] = {}
    for (agent_id, _), agent in watch.last.items():
        assert agent.beat
        parent = agent.chain[-2].agent_id
        for action, count in agent.beat.messages.get("sent", {}).items():
            sums[agent_id, parent, action] = sums.get((agent_id, parent, action), 0) + count
        for action, count in agent.beat.messages.get("received", {}).items():
            sums[parent, agent_id, action] = sums.get((parent, agent_id, action), 0) + count
    return [
        Traffic(_short(sender), _short(recipient), action, count)
        for (sender, recipient, action), count in sorted(sums.items())
    ]


def _short(agent_id: str) -> str:
    """An id without the coordinator's, after which distributors are named."""
    return agent_id.rpartition(".")[2]
