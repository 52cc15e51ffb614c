"""Watches a hierarchy: what it looks like now, look by look, with the rates since the look before."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime

from core.config.settings import AgentConfig
from core.fleet_counts import FleetCounts
from core.fleet_moment import AskedLine, FleetMoment, Order, RunningLine, lines_of, rate_between
from core.operations.fleet_counts import read_fleet_counts
from core.operations.questions import open_questions
from core.operations.task_records import read_records
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.roles import Role
from core.tasks import Task, TaskStatus
from core.waits import Question

__all__ = ["FleetWatch"]

#: How many of the open tasks a look reads, the oldest first: those that run longest are among them.
OLDEST = 200
#: How many agents it tells of, the first in the order that is asked for.
MOST_AGENTS = 200
#: How many of the slowest, and of the questions, it tells.
SHOWN = 50
#: Looks whose rates are remembered.
RATES_KEPT = 60
ASKS_LENGTH = 200


class FleetWatch:
    """Looks at one hierarchy again and again. A look reads as much for ten open tasks as for a million, and little of
    each agent."""

    def __init__(self, source: Runs, coordinator_id: str, config: AgentConfig | None = None) -> None:
        self._source = source
        self._coordinator_id = coordinator_id
        self._config = config
        self._keys = CoordinatorKeys(coordinator_id)
        self._before: FleetCounts | None = None
        self._rates: deque[float] = deque(maxlen=RATES_KEPT)

    async def look(self, order: Order = Order.TREE) -> FleetMoment:
        """What it looks like now. Raises TransportDown, ServerRefused."""
        counts = await read_fleet_counts(self._source, self._coordinator_id, self._config)
        rates = rate_between(self._before, counts)
        if self._before is not None:
            self._rates.append(sum(rate for chain, rate in rates.items() if chain[-1].role is Role.WORKER))
        self._before = counts
        tasks = await self._oldest()
        asked = await open_questions(self._source, self._coordinator_id, SHOWN)
        workers = counts.tiers[Role.WORKER]
        return FleetMoment(
            coordinator_id=self._coordinator_id,
            at=counts.at,
            tiers=counts.tiers,
            agents=lines_of(counts, rates, order, MOST_AGENTS),
            open_tasks=counts.open_tasks,
            running=workers.running,
            slots=workers.slots,
            agent_slots=workers.agent_slots,
            asking=counts.asking,
            dead_letters=counts.dead_letters,
            rate=self._rates[-1] if self._rates else 0.0,
            rates=tuple(self._rates),
            waiting={why.replace("_", " "): number for why, number in counts.waiting.items() if why != "running"},
            oldest_waiting_s=_oldest_waiting_s(tasks, counts.at),
            slowest=await self._slowest(tasks, counts.at),
            questions=[_asked(question, counts.at) for question in asked if isinstance(question, Question)],
        )

    async def _oldest(self) -> list[Task]:
        [ids] = await self._source.look(("ZRANGE", self._keys.open, 0, OLDEST - 1))
        if not isinstance(ids, list) or not ids:
            return []
        found = await read_records(self._source, self._keys.tasks, ids)
        return [task for task in found if isinstance(task, Task)]

    async def _slowest(self, tasks: Sequence[Task], now: datetime) -> list[RunningLine]:
        """Those that run, the one first that has run longest."""
        held: dict[str, list[bytes]] = {}
        for task in tasks:
            if task.status is TaskStatus.IN_PROGRESS and task.assigned_to:
                held.setdefault(task.assigned_to, []).append(task.task_id.encode())
        running = []
        for distributor_id, ids in held.items():
            for told in await read_records(self._source, CellKeys(distributor_id).actual, ids):
                if isinstance(told, Task) and told.status is TaskStatus.IN_PROGRESS and told.started_at:
                    runs_s = max(0.0, (now - told.started_at).total_seconds())
                    worker = told.assigned_to or ""
                    running.append(RunningLine(told.task_id, told.task_type, worker, told.attempt, runs_s))
        return sorted(running, key=lambda line: -line.runs_s)[:SHOWN]


def _oldest_waiting_s(tasks: Sequence[Task], now: datetime) -> float | None:
    """How long the first has waited of those that could be handed out."""
    pending = [task for task in tasks if task.status is TaskStatus.PENDING and (task.not_before or now) <= now]
    since = [max(task.updated_at or task.created_at, task.not_before or task.created_at) for task in pending]
    return max(0.0, (now - min(since)).total_seconds()) if since else None


def _asked(question: Question, now: datetime) -> AskedLine:
    asks = question.asks if isinstance(question.asks, str) else f"{question.asks}"
    waits_s = (now - question.asked_at).total_seconds() if question.asked_at else 0.0
    return AskedLine(question.task_id, asks[:ASKS_LENGTH], max(0.0, waits_s))
