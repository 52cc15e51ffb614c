"""Watches the heartbeats of the hierarchy, for the screen and for the pictures in the report."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

from core.operations.overview import read_overview
from core.operations.reader import Reader
from core.overview import AgentView, Overview
from core.pictures.hierarchy import AgentBox, Traffic
from core.pictures.live import AgentRow, LiveView, Snapshot
from core.pictures.task_lanes import Mark
from core.roles import Role
from core.status_reports import Beat
from examples.census.options import Victim

__all__ = ["POLL_S", "Watch"]

POLL_S = 0.1
#: Seconds to wait for the last heartbeats, so that the counts are complete.
LAST_HEARTBEATS_S = 5.0
#: The share of the reviews that are done when an agent is killed, when all still have work.
KILL_AT = 0.25


class Watch:
    """Watches one hierarchy. `marks`: the moments at which an agent was killed."""

    def __init__(self, coordinator_id: str, victim: Victim | None, view: LiveView) -> None:
        self.marks: list[Mark] = []
        self._coordinator_id = coordinator_id
        self._victim = victim
        self._view = view
        self._killed: set[str] = set()
        #: the last heartbeat of each start of each agent, so that the counts of a killed process are included
        self._last: dict[tuple[str, int], tuple[AgentView, Beat]] = {}
        self._done_before: dict[str, tuple[float, int, float]] = {}  #: agent -> (when, done, rate)

    async def look(self, reader: Reader) -> Overview:
        """Notes the heartbeats, and shows the progress of the job."""
        overview = await read_overview(reader, self._coordinator_id)
        for agent in overview.agents:
            if agent.beat:
                self._last[agent.agent_id, agent.beat.started_ms] = agent, agent.beat
        done = overview.ended_tasks
        rows = [self._row(agent, overview) for agent in overview.agents if agent.beat or agent.role is Role.COORDINATOR]
        retried = sum(beat.retried for _, beat in self._last.values())
        self._view.show(Snapshot(rows, done, done + overview.open_tasks, retried=retried))
        return overview

    def strike(self, overview: Overview) -> None:
        """Kills an agent that has work, if that is requested, once enough tasks have ended."""
        if self._victim is None or self._killed:
            return
        if overview.ended_tasks < max(1, KILL_AT * (overview.ended_tasks + overview.open_tasks)):
            return
        for agent in overview.of_role(Role(self._victim)):
            if agent.pid is not None and agent.beat and (agent.beat.holding or agent.beat.running):
                os.kill(agent.pid, signal.SIGKILL)
                self.marks.append(Mark(overview.at.timestamp(), f"{_short(agent.agent_id)} killed"))
                self._killed.add(agent.agent_id)
                self._view.say(f"killed {_short(agent.agent_id)} (process {agent.pid}) with SIGKILL")
                return

    async def last_heartbeats(self, reader: Reader) -> None:
        """Waits for another heartbeat of every agent, so that the counts are complete."""
        if self._victim and not self._killed:
            self._view.say(
                f"no {self._victim} was killed: the job was over before its middle was seen; give it a larger tree"
            )
        seen = {key: beat.beat for key, (_, beat) in self._last.items()}
        deadline_s = time.monotonic() + LAST_HEARTBEATS_S
        while time.monotonic() < deadline_s:
            overview = await self.look(reader)
            beats = [(agent.agent_id, agent.beat) for agent in overview.agents if agent.beat and agent.up]
            if all(beat.beat > seen.get((agent_id, beat.started_ms), 0) for agent_id, beat in beats):
                return
            await asyncio.sleep(POLL_S)

    def distributors(self) -> list[str]:
        """The sorted ids of all agents that were seen."""
        return sorted({agent.agent_id for agent, _ in self._last.values() if agent.role is Role.DISTRIBUTOR})

    def boxes(self) -> list[AgentBox]:
        """Every agent, with its counts over all its starts."""
        boxes = {"": AgentBox(self._coordinator_id, "coordinator", None)}
        for agent, beat in self._last.values():
            remark = "killed, restarted" if agent.agent_id in self._killed else ""
            counts = {"done": self._done(agent.agent_id), "failed": beat.failed}
            name, parent = _short(agent.agent_id), _short(agent.chain[-2].agent_id)
            boxes[name] = AgentBox(name, agent.role.value, parent, counts, remark)
        return sorted(boxes.values(), key=lambda box: box.agent_id)

    def traffic(self) -> list[Traffic]:
        """The messages in both directions of each link, counted by its lower end over all its starts."""
        sums: Counter[tuple[str, str, str]] = Counter()
        for agent, beat in self._last.values():
            name, parent = _short(agent.agent_id), _short(agent.chain[-2].agent_id)
            for action, count in beat.messages.get("sent", {}).items():
                sums[name, parent, action] += count
            for action, count in beat.messages.get("received", {}).items():
                sums[parent, name, action] += count
        return [
            Traffic(sender, recipient, action, count) for (sender, recipient, action), count in sorted(sums.items())
        ]

    def _row(self, agent: AgentView, overview: Overview) -> AgentRow:
        """The row of a coordinator. It sends no heartbeat, so its count is that of the ended tasks."""
        name, role, state = _short(agent.agent_id), agent.role.value, agent.health.value
        if agent.agent_id in self._killed and state == "active":
            state = "restarted"
        if agent.beat is None:
            rate = self._rate(agent.agent_id, overview.ended_tasks)
            return AgentRow(name, role, state, overview.open_tasks, overview.ended_tasks, 0, rate)
        in_flight = len(agent.beat.holding) if agent.role is Role.WORKER else agent.beat.running
        done = self._done(agent.agent_id)
        return AgentRow(name, role, state, in_flight, done, agent.beat.failed, self._rate(agent.agent_id, done))

    def _done(self, agent_id: str) -> int:
        """The number of tasks completed by an agent, over all its starts, from their last heartbeats."""
        return sum(beat.done for (name, _), (_, beat) in self._last.items() if name == agent_id)

    def _rate(self, agent_id: str, done: int) -> float:
        """Tasks a second between the last two counts that differ."""
        now_s = time.monotonic()
        then_s, before, rate = self._done_before.get(agent_id, (now_s, done, 0.0))
        if done != before:
            rate = max(0.0, (done - before) / max(now_s - then_s, POLL_S))
        if done != before or agent_id not in self._done_before:
            self._done_before[agent_id] = (now_s, done, rate)
        return rate


def _short(agent_id: str) -> str:
    """An id without the prefix that is the coordinator's id."""
    return agent_id.rpartition(".")[2]
