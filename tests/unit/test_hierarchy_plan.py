"""Which agents a hierarchy has."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.launch.hierarchy import plan_agents
from core.roles import Role


def test_workers_are_dealt_out_to_the_distributors_in_turn() -> None:
    plans = plan_agents("coordinator-1", distributors=2, workers=3)
    assert [str(plan.address) for plan in plans] == [
        "coordinator:coordinator-1", "distributor:distributor-1", "distributor:distributor-2",
        "worker:worker-1", "worker:worker-2", "worker:worker-3",
    ]  # fmt: skip
    whose = [plan.flags[plan.flags.index("--distributor") + 1] for plan in plans[3:]]
    assert whose == ["distributor-1", "distributor-2", "distributor-1"]


def test_every_agent_is_told_its_id_and_only_workers_what_to_import() -> None:
    plans = plan_agents(
        "c", distributors=1, workers=1, modules=["a", "b"], concurrency=7, flags=["--log-format", "json"]
    )
    common = ("--coordinator", "c", "--log-format", "json")
    assert [plan.flags for plan in plans] == [
        ("--id", "c", "--log-format", "json"),
        ("--id", "c.distributor-1", *common),
        ("--id", "worker-1", "--distributor", "c.distributor-1", *common,
         "--import", "a", "--import", "b", "--concurrency", "7"),
    ]  # fmt: skip


def test_every_agent_answers_probes_at_a_port_of_its_own() -> None:
    plans = plan_agents("c", distributors=1, workers=1, health_port=8080)
    assert [plan.flags[-2:] for plan in plans] == [("--health-port", f"{port}") for port in (8080, 8081, 8082)]


@pytest.mark.parametrize(("distributors", "workers"), [(2, 1), (0, 1), (1, 0)])
def test_a_tier_without_an_agent_is_refused(distributors: int, workers: int) -> None:
    with pytest.raises(ConfigError, match="each needs one at least"):
        plan_agents("coordinator-1", distributors=distributors, workers=workers)


def test_distributors_of_two_coordinators_have_names_of_their_own() -> None:
    names = [
        plan.address.agent_id
        for coordinator in ("coordinator-1", "coordinator-2")
        for plan in plan_agents(coordinator, distributors=2, workers=2)
        if plan.address.role is Role.DISTRIBUTOR
    ]
    assert len(set(names)) == 4
