"""What a tier is told of in its process, does, and is asked for are closed unions: each member is dealt with."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

import coordinator.rules
import coordinator.state
import distributor.rules
import distributor.state
import worker.rules
from core.step import Effect, Event, Request

TABLES = [
    pytest.param(coordinator.rules.ON_EVENT, coordinator.state.CoordinatorEvent, id="coordinator-events"),
    pytest.param(coordinator.rules.ON_REQUEST, coordinator.state.CoordinatorRequest, id="coordinator-requests"),
    pytest.param(distributor.rules.ON_EVENT, distributor.state.DistributorEvent, id="distributor-events"),
    pytest.param(distributor.rules.ON_REQUEST, distributor.state.DistributorRequest, id="distributor-requests"),
    pytest.param(worker.rules.ON_EVENT, worker.rules.WorkerEvent, id="worker-events"),
]
#: All that each tier declares, of whichever kind.
UNIONS = {
    "coordinator": (
        coordinator.state.CoordinatorEvent, coordinator.state.CoordinatorEffect, coordinator.state.CoordinatorRequest,
    ),
    "distributor": (distributor.state.DistributorEvent, distributor.state.DistributorRequest),
    "worker": (worker.rules.WorkerEvent, worker.rules.WorkerEffect),
}  # fmt: skip


@pytest.mark.parametrize(("table", "union"), TABLES)
def test_each_event_and_request_is_taken_by_the_rule_that_is_declared_for_it(
    table: dict[type, Any], union: object
) -> None:
    assert set(table) == set(get_args(union))
    for kind, rule in table.items():
        [_, taken, *_] = get_type_hints(rule).values()
        assert taken is kind, f"{rule.__name__} does not take {kind.__name__}"


@pytest.mark.parametrize("tier", UNIONS)
def test_no_event_effect_or_request_of_a_tier_stands_outside_its_unions(tier: str) -> None:
    declared = {kind.__name__ for union in UNIONS[tier] for kind in get_args(union)}
    defined = {
        kind.__name__
        for base in (Event, Effect, Request)
        for kind in base.__subclasses__()
        if kind.__module__.startswith(f"{tier}.")
    }
    assert defined <= declared
    assert defined
