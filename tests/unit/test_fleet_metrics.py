"""What a gateway tells Prometheus of the fleet."""

from __future__ import annotations

from datetime import UTC, datetime

from core.agents import Health
from core.gateway.metrics import fleet_metrics
from core.overview import AgentView, Overview
from core.roles import Address, Role
from core.status_reports import Beat

TOP, MIDDLE = Address(Role.COORDINATOR, "c"), Address(Role.DISTRIBUTOR, "d")


def worker(name: str, health: Health) -> AgentView:
    return AgentView((TOP, MIDDLE, Address(Role.WORKER, name)), health, None, Beat(), 0, 0, 0, 1, 1)


def told(*agents: AgentView) -> dict[tuple[str, ...], float]:
    overview = Overview("c", datetime(2026, 11, 29, tzinfo=UTC), agents, 0, 0, 0, {})
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in fleet_metrics(overview)
        for sample in family.samples
    }


def test_the_availability_of_a_tier_is_the_share_of_its_agents_that_are_up() -> None:
    top = AgentView((TOP,), Health.SUSPECT, None, None, 0, 0, 0, 1, 1)
    found = told(
        top, worker("a", Health.ACTIVE), worker("b", Health.DRAINING), worker("c", Health.GONE),
        worker("d", Health.SUSPECT),
    )  # fmt: skip

    assert found["fleet_available_ratio", "worker"] == 0.5
    assert found["fleet_available_ratio", "coordinator"] == 0
    assert ("fleet_available_ratio", "distributor") not in found, "there is none"
    assert found["fleet_agents", "worker", "gone"] == 1
