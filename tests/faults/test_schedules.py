"""Schedules under faults: whoever dies or goes away, each firing opens its task once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.redis_backend.keys import CoordinatorKeys
from core.schedules import Schedule
from tests.faults.stage import COORDINATOR, Stage
from tests.waiting import until

TASKS = CoordinatorKeys(COORDINATOR).tasks
STANDBY = f"{COORDINATOR}b"


def opened(stage: Stage, name: str) -> list[str]:
    """The ids of the tasks that a schedule has opened, in the order of their times."""
    with stage.server.connect() as client:
        names = client.execute_command("HKEYS", TASKS)
    return sorted(task_id for each in names if (task_id := each.decode()).startswith(f"{name}@"))


def fires(stage: Stage, name: str) -> None:
    """Waits until it has fired once more."""
    before = len(opened(stage, name))
    until(lambda: len(opened(stage, name)) > before, f"{name} fires")


def check(stage: Stage, name: str) -> None:
    """Each of its times has one task, none is left out, and no other is there."""
    stage.client.schedules.pause(name)
    schedule = stage.client.schedules.get(name)
    assert schedule.since
    assert schedule.fired_until
    seconds = int((schedule.fired_until - schedule.since).total_seconds())
    times = [schedule.since + timedelta(seconds=second) for second in range(1, seconds + 1)]
    assert opened(stage, name) == [f"{name}@{at:%Y-%m-%dT%H:%M:%S}Z" for at in times]
    assert schedule.opened == len(times)


def every_second(name: str) -> Schedule:
    return Schedule(name=name, every_s=1, missed="all", task={"task_type": "noop"})


@pytest.mark.parametrize("point", ["before-exec", "exec-sent", "exec"])
def test_a_coordinator_that_dies_at_a_firing_is_followed_by_a_standby_that_opens_each_task_once(
    stage: Stage, point: str
) -> None:
    """It dies among its first transactions, of which the others are those of its start."""
    stage.start(COORDINATOR)
    stage.ready(COORDINATOR)
    stage.client.schedules.set(every_second("tick"))
    stage.processes.kill(COORDINATOR)
    stage.start(COORDINATOR, failpoints=f"{point}:3:kill")
    until(lambda: stage.acts(COORDINATOR), "it acts again")
    stage.start(STANDBY)

    assert stage.processes.wait(COORDINATOR) == -9, stage.processes.log(COORDINATOR)
    stage.ready(STANDBY)
    fires(stage, "tick")

    check(stage, "tick")


def test_a_server_that_is_killed_and_comes_back_neither_loses_a_firing_nor_has_it_twice(stage: Stage) -> None:
    stage.start(COORDINATOR)
    stage.ready(COORDINATOR)
    stage.client.schedules.set(every_second("tock"))
    fires(stage, "tock")

    stage.server.kill()
    stage.server.start()
    fires(stage, "tock")

    check(stage, "tock")
