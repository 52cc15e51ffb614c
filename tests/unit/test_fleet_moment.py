"""What `agents top` makes of two looks at a hierarchy, and draws of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from core.agents import Health
from core.fleet_counts import AgentBrief, FleetCounts, tiers_of
from core.fleet_moment import AskedLine, EventLine, FleetMoment, Order, RunningLine, lines_of, rate_between
from core.pictures.fleet import Shown, agents_text, fleet_picture
from core.roles import Address, Role

NOW = datetime(2026, 11, 28, 20, tzinfo=UTC)
TOP, MIDDLE = Address(Role.COORDINATOR, "c"), Address(Role.DISTRIBUTOR, "d")


def worker(name: str, silent_ms: int = 0, health: Health = Health.ACTIVE, **said: Any) -> AgentBrief:
    return AgentBrief((TOP, MIDDLE, Address(Role.WORKER, name)), health, silent_ms, 0, slots=4, **said)


def counts(*agents: AgentBrief, at: datetime = NOW) -> FleetCounts:
    return FleetCounts("c", at, agents, tiers_of(agents))


def test_a_rate_is_what_has_ended_between_two_looks() -> None:
    before = counts(worker("w1", done=10, failed=1))
    now = counts(worker("w1", done=15, failed=2), at=NOW + timedelta(seconds=2))
    assert list(rate_between(before, now).values()) == [3.0]


def test_an_agent_that_has_begun_anew_counts_from_nothing() -> None:
    before = counts(worker("w1", done=1000))
    now = counts(worker("w1", done=4), at=NOW + timedelta(seconds=2))
    assert list(rate_between(before, now).values()) == [2.0]


def test_there_are_no_rates_before_the_second_look_or_when_the_clock_went_back() -> None:
    assert rate_between(None, counts(worker("w1", done=10))) == {}
    assert rate_between(counts(at=NOW), counts(worker("w1", done=1), at=NOW - timedelta(hours=1))) == {}


@pytest.mark.parametrize(
    ("order", "first"), [(Order.TREE, "w1"), (Order.FAILED, "w2"), (Order.LOAD, "w3"), (Order.SILENT, "w4")]
)
def test_agents_are_sorted_and_the_dead_come_last(order: Order, first: str) -> None:
    agents = (
        worker("w1"), worker("w2", failed=9), worker("w3", running=4), worker("w4", silent_ms=900),
        worker("w5", 10_000, Health.GONE, failed=99, running=9),
    )  # fmt: skip
    names = [line.agent_id for line in lines_of(counts(*agents), {}, order, 5)]
    assert names[0] == first
    assert names[-1] == "w5"


@pytest.mark.parametrize("order", Order)
def test_of_very_many_those_are_shown_that_most_need_somebody_to_look(order: Order) -> None:
    agents = [worker(f"w{number}", done=1) for number in range(1000)]
    agents[700] = worker("silent", 9_000, Health.SUSPECT)
    agents[800] = worker("ill", running=4, failed=3)
    found = counts(*agents)
    rates = {agents[800].chain: 2.0}
    lines = lines_of(found, rates, order, 3)

    first = "silent" if order in (Order.TREE, Order.SILENT) else "ill"
    assert [len(lines), lines[0].agent_id] == [3, first]
    moment = FleetMoment(coordinator_id="c", at=NOW, tiers=found.tiers, agents=lines)
    assert agents_text(moment) == "3 of 1000 agents (1 suspect)"


@pytest.mark.parametrize("size", [(130, 40), (80, 24), (40, 10), (20, 5)])
def test_the_picture_fits_the_terminal_and_shows_no_control_characters(size: tuple[int, int]) -> None:
    width, height = size
    agents = [worker(f"w{number}", done=number) for number in range(50)]
    moment = FleetMoment(
        coordinator_id="c", at=NOW, agents=lines_of(counts(*agents), {}, Order.TREE, 50), rates=[0.0, 5.0, 2.5],
        slowest=[RunningLine("task-\x1b[31m", "slow", "w1", 1, 92.0)], questions=[AskedLine("t", "really\x07?", 3.0)],
        events=[EventLine("w1 has joined", "green")], waiting={"no agent has gpu": 3},
    )  # fmt: skip
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(fleet_picture(moment, Shown(first=3), width, height), end="")
    lines = captured.get().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert not {"\x1b", "\x07"} & set(captured.get())
