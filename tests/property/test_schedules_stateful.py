"""Whenever coordinators die and whatever their clock shows: each firing opens one task, and none is lost.

The rules run on what a store has; a coordinator that dies leaves only that. A step that was not committed has not
happened.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.graph import build
from coordinator.rules import recall
from coordinator.schedules import due_ids, next_firing_ms, recall_schedules
from coordinator.state import CoordinatorState
from core.event_types import EventType
from core.roles import Action
from core.schedules import Schedule, firing_id, next_firing
from core.step import Batch, Step, Table
from core.tasks import Task
from tests.builders import CLIENT, a_batch
from tests.coordinator_steps import to_me

GRAPH = build()
#: Shortly before the clocks are set in Berlin, and in New York: what is driven goes past both.
STARTS = (datetime(2026, 10, 24, 20, 0, tzinfo=UTC), datetime(2026, 3, 28, 22, 0, tzinfo=UTC))
TIMINGS: tuple[dict[str, Any], ...] = (
    {"every_s": 700},
    {"cron": "*/20 * * * *"},
    {"cron": "*/15 2 * * *", "timezone": "Europe/Berlin"},
    {"cron": "30 2,3 * * *", "timezone": "Europe/Berlin"},
    {"cron": "10 1,2 * * *", "timezone": "America/New_York"},
)
#: Number of tasks that may be open.
ROOM = 4


class Coordinators(RuleBasedStateMachine):
    """One coordinator after the other, on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, bytes] = {}
        self.open: set[str] = set()
        self.schedules: dict[str, bytes] = {}
        self.opened: Counter[str] = Counter()

    @initialize(
        start=st.sampled_from(STARTS),
        timing=st.sampled_from(TIMINGS),
        missed=st.sampled_from(("once", "all")),
        lasts=st.booleans(),
    )
    def begin(self, start: datetime, timing: dict[str, Any], missed: str, lasts: bool) -> None:
        self.now = self.latest = self.start = start
        self.take_over()
        given = {"name": "s", "task": {"task_type": "sum"}, "missed": missed, **timing}
        self.given, self.lasts = given, lasts
        self.commit(self.decided(to_me(CLIENT, Action.SET_SCHEDULE, [given])))

    def take_over(self) -> None:
        self.state = CoordinatorState("coordinator-1", max_open_tasks=ROOM)
        recall(self.state, [Task.from_json(self.records[task_id]) for task_id in sorted(self.open)], {}, 0)
        recall_schedules(self.state, map(Schedule.from_json, self.schedules.values()))

    def decided(self, *messages: Any) -> Step:
        looked_up = {
            task_id: self.records[task_id] for task_id in due_ids(self.state, self.now) if task_id in self.records
        }
        batch: Batch = a_batch(*messages, later_s=(self.now - a_batch().now).total_seconds(), stored=looked_up)
        return GRAPH.run(self.state, batch)

    def commit(self, step: Step) -> None:
        for (table, _), values in step.writes.items():
            for name, value in values.items():
                if table is Table.SCHEDULES and isinstance(value, bytes):
                    self.schedules[name] = value
                elif table is Table.TASKS and isinstance(value, bytes):
                    assert name not in self.records or name in self.open, "an ended task was opened again"
                    self.records[name] = value
                elif table is Table.OPEN:
                    (self.open.discard if value is None else self.open.add)(name)
        self.opened.update(task_id for kind, task_id, *_ in step.events if kind is EventType.SCHEDULE_FIRED)

    @rule(seconds=st.integers(0, 900))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.latest = max(self.latest, self.now)
        self.commit(self.decided())

    @rule(hours=st.integers(1, 5))
    def nobody_acts_for_hours(self, hours: int) -> None:
        self.take_over()
        self.now += timedelta(hours=hours)
        self.latest = max(self.latest, self.now)
        self.commit(self.decided())

    @rule(seconds=st.integers(1, 10_000))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.now -= timedelta(seconds=seconds)
        self.commit(self.decided())

    @rule(seconds=st.integers(0, 900), committed=st.booleans())
    def it_dies_in_a_step(self, seconds: int, committed: bool) -> None:
        self.now += timedelta(seconds=seconds)
        self.latest = max(self.latest, self.now)
        step = self.decided()
        if committed:
            self.commit(step)
        self.take_over()

    @precondition(lambda self: not self.lasts)
    @rule()
    def it_is_removed_and_set_again(self) -> None:
        self.commit(self.decided(to_me(CLIENT, Action.REMOVE_SCHEDULE, ["s"])))
        self.commit(self.decided(to_me(CLIENT, Action.SET_SCHEDULE, [self.given])))

    @rule()
    def tasks_end(self) -> None:
        for task_id in self.open:
            self.records[task_id] = Task.from_json(self.records[task_id]).evolve(status="completed").to_json()
        self.open.clear()
        self.take_over()

    @invariant()
    def no_firing_is_doubled(self) -> None:
        assert all(times == 1 for times in self.opened.values()), self.opened

    @invariant()
    def no_more_is_open_than_may_be(self) -> None:
        assert len(self.open) <= ROOM

    def teardown(self) -> None:
        """When there is room and time, nothing is left that should have come."""
        if not self.schedules:
            return
        self.now = max(self.now, self.latest)
        for _ in range(1_000):
            self.commit(self.decided())
            if (next_firing_ms(self.state) or 0) > self.now.timestamp() * 1000 + 1_000:
                break
            self.tasks_end()
            self.now += timedelta(seconds=1)
        schedule = Schedule.from_json(self.schedules["s"])
        assert schedule.owed == ()
        if not self.lasts:
            return
        expected, after = [], self.start
        while (at := next_firing(schedule, after)) is not None and at <= self.now:
            expected.append(firing_id("s", at))
            after = at
        assert set(self.opened) <= set(expected)
        if schedule.missed == "all":
            assert sorted(self.opened) == expected


TestCoordinators = Coordinators.TestCase
TestCoordinators.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
