"""What `agents doctor` says of a fleet: rules over what was read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from core.agents import Health
from core.operations.fleet_checkup import (
    check_agents,
    check_clocks,
    check_registered,
    check_tiers,
    check_versions,
    check_waiting,
    unmet_needs,
)
from core.overview import AgentView, Overview
from core.roles import Address, Role
from core.status_reports import Beat
from core.tasks import Task

TOP = Address(Role.COORDINATOR, "c")
D1, D2 = Address(Role.DISTRIBUTOR, "d1"), Address(Role.DISTRIBUTOR, "d2")
W1 = Address(Role.WORKER, "w1")


NOW = datetime(2026, 11, 28, tzinfo=UTC)


def agent(*chain: Address, health: Health = Health.ACTIVE, inbox: int = 0, **beat: Any) -> AgentView:
    return AgentView(chain, health, None, Beat(**beat), 0, 0, inbox, 1, 1)


#: Its heartbeat is gone with it.
GONE = AgentView((TOP, D1, W1), Health.GONE, None, None, None, None, 0, 1, 1)


def overview(*agents: AgentView, **fields: Any) -> Overview:
    return Overview("c", NOW, agents, 0, 0, 0, {}, **fields)


@pytest.mark.parametrize(
    ("agents", "state", "words"),
    [
        ((agent(TOP, D1),), "fail", "no coordinator is up"),
        ((agent(TOP),), "warn", "nobody below it"),
        ((agent(TOP), agent(TOP, D1), agent(TOP, D2)), "warn", "no worker is up"),
        ((agent(TOP), agent(TOP, D1), agent(TOP, D1, W1), agent(TOP, D2)), "warn", "nobody works for distributor:d2"),
        ((agent(TOP), agent(TOP, D1, health=Health.GONE), agent(TOP, D2), agent(TOP, D1, W1)), "fail", "w1 of d1"),
    ],
)
def test_a_tier_that_is_missing_is_named_with_a_cure(agents: Any, state: str, words: str) -> None:
    found = [finding for finding in check_tiers(overview(*agents)) if words in finding.what]
    assert [finding.state for finding in found] == [state]
    assert found[0].cure


def test_nothing_is_said_of_tiers_that_are_all_there_or_all_away() -> None:
    assert not list(check_tiers(overview(agent(TOP), agent(TOP, D1), agent(TOP, D1, W1))))
    assert not list(check_tiers(overview()))
    told = agent(TOP, D1, children={"w9": {"health": "active"}})  # of workers that nobody has looked at
    assert not list(check_tiers(overview(agent(TOP), told)))


@pytest.mark.parametrize(
    ("agents", "words", "cure"),
    [
        ([], "none is up", "agents up"),
        ([agent(TOP, health=Health.GONE)], "none is up", "agents up"),
        ([agent(TOP), agent(TOP, D1, W1, health=Health.UNHEARD)], "worker:w1 is not heard by", "start distributor:d1"),
        (
            [agent(TOP), agent(TOP, D1), agent(TOP, D1, W1, health=Health.UNHEARD)],
            "worker:w1 is not heard",
            "agents key",
        ),
        ([agent(TOP), agent(TOP, D1, health=Health.SUSPECT)], "silent: distributor:d1", "logs"),
        ([agent(TOP), GONE], "gone without notice: worker:w1", f"srem agents:active {TOP}/{D1}/{W1}"),
    ],
)
def test_agents_that_are_not_up_are_named_each_with_a_cure(agents: list[AgentView], words: str, cure: str) -> None:
    [found] = [finding for finding in check_agents(overview(*agents)) if words in finding.what]
    assert (found.state, cure in found.cure) == ("warn", True)


def test_what_waits_for_a_hierarchy_that_is_not_up_is_counted() -> None:
    [found] = check_agents(Overview("c", NOW, (agent(TOP, health=Health.GONE, inbox=2),), 3, 0, 0, {}))
    assert found.what == "none is up, 3 task(s) wait, 2 message(s) are unread"
    [fine] = check_agents(overview(agent(TOP), agent(TOP, D1), agent(TOP, D1, W1)))
    assert (fine.state, fine.what) == ("ok", "3 up")


def test_an_agent_that_cannot_be_discovered_is_named_with_the_reason() -> None:
    [fine] = check_registered([(agent(TOP, D1), f"{TOP}/{D1}")])
    [away] = check_registered([(agent(TOP, D1), "")])
    [twice] = check_registered([(agent(TOP, D2, W1), f"{TOP}/{D1}/{W1}")])
    assert [fine.state, away.state, twice.state] == ["ok", "warn", "warn"]
    assert "distributor:d1" in away.what
    assert "worker:w1 of distributor:d2" in twice.what
    assert f"{TOP}/{D1}/{W1}" in twice.what


def test_tasks_that_wait_for_what_does_not_come_are_a_finding_and_those_in_line_are_not() -> None:
    [held] = check_waiting(overview(waiting={"nobody_has": 3, "all_full": 5}))
    [in_line] = check_waiting(overview(waiting={"all_full": 5}))
    assert (held.state, "3 task(s)" in held.what) == ("warn", True)
    assert (in_line.state, "5 task(s) wait their turn" in in_line.what) == ("ok", True)


def test_a_skill_that_no_worker_has_is_named_with_a_task_that_needs_it() -> None:
    there = overview(agent(TOP, D1, W1, capabilities=("task:sum", "cpu")))
    tasks = [
        Task(task_id="t1", task_type="sum"),
        Task(task_id="t2", task_type="sum", capabilities=("gpu",)),
        Task(task_id="t3", task_type="draw"),
    ]
    told = [finding.what for finding in unmet_needs(tasks, there)]
    assert len(told) == 2
    assert any("capability 'gpu'" in what and "t2" in what for what in told)
    assert any("tasks of type 'draw'" in what and "t3" in what for what in told)


def test_skills_that_no_worker_has_together_are_named() -> None:
    there = overview(
        agent(TOP, D1, W1, capabilities=("task:sum",)),
        agent(TOP, D1, Address(Role.WORKER, "w2"), capabilities=("task:draw", "gpu")),
    )
    [found] = unmet_needs([Task(task_id="t1", task_type="sum", capabilities=("gpu",))], there)
    assert "all of: the capability 'gpu', the handler for tasks of type 'sum'" in found.what


def test_agents_of_other_versions_are_named() -> None:
    assert check_versions({"w1": "0.1.0", "w2": ""}, "0.1.0").state == "ok"
    other = check_versions({"w1": "0.1.0", "w2": "0.2.0"}, "0.1.0")
    assert (other.state, "w2 0.2.0" in other.what, "w1" in other.what) == ("warn", True, False)


def test_agents_whose_clock_differs_are_named_the_worst_first() -> None:
    assert check_clocks({"w1": -1_900, "w2": 40}).state == "ok"
    other = check_clocks({"w1": 3_000, "w2": 0, "w3": -60_000})
    assert (other.state, "2 agent(s)" in other.what, "w3 -60.0 s, w1 +3.0 s" in other.what) == ("warn", True, True)
    assert "NTP" in other.cure
