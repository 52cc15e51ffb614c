"""What a gateway tells Prometheus of the fleet."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from core.agents import Health
from core.fleet_counts import AgentBrief, FleetCounts, tiers_of
from core.gateway.fleet_look import known_for_s
from core.gateway.metrics import fleet_metrics
from core.roles import Address, Role

TOP, MIDDLE = Address(Role.COORDINATOR, "c"), Address(Role.DISTRIBUTOR, "d")


def worker(name: str, health: Health) -> AgentBrief:
    return AgentBrief((TOP, MIDDLE, Address(Role.WORKER, name)), health, 0, unread=2, running=1, slots=4)


def told(*agents: AgentBrief) -> dict[tuple[str, ...], float]:
    counts = FleetCounts("c", datetime(2026, 11, 29, tzinfo=UTC), agents, tiers_of(agents))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in fleet_metrics(counts)
        for sample in family.samples
    }


def test_the_availability_of_a_tier_is_the_share_of_its_agents_that_are_up() -> None:
    top = AgentBrief((TOP,), Health.SUSPECT, None, 0)
    found = told(
        top, worker("a", Health.ACTIVE), worker("b", Health.DRAINING), worker("c", Health.GONE),
        worker("d", Health.SUSPECT),
    )  # fmt: skip

    assert found["fleet_available_ratio", "worker"] == 0.5
    assert found["fleet_available_ratio", "coordinator"] == 0
    assert ("fleet_available_ratio", "distributor") not in found, "there is none"
    assert found["fleet_agents", "worker", "gone"] == 1
    assert (found["fleet_tasks", "running"], found["fleet_slots",]) == (2, 8), "of those that are up"
    assert found["fleet_unread_messages", "worker"] == 8, "in all inboxes"


@pytest.mark.parametrize(("used_s", "known_s"), [(0.0, 1.0), (0.002, 1.0), (0.14, 2.8), (3.0, 10.0)])
def test_looks_take_a_twentieth_of_a_gateways_time_and_are_never_old(used_s: float, known_s: float) -> None:
    assert known_for_s(used_s) == pytest.approx(known_s)
