"""What a coordinator does about strategies, and its distributors with it."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.state import CoordinatorState
from coordinator.strategies import recall_strategies
from core.errors import NotPermitted
from core.roles import Action, Address, Role, check_permitted
from core.step import Sending, Table
from core.strategies import Strategy
from tests import distributor_steps
from tests.builders import COORDINATOR, DISTRIBUTOR, WORKER, record
from tests.coordinator_steps import OTHER, a_coordinator, alive, refusals, take, to_me

OPERATOR = Address(Role.OPERATOR, "op~1")


def setting(*items: Any) -> Any:
    return to_me(OPERATOR, Action.SET_STRATEGY, items)


def told(step: Any, distributor: Address) -> Any:
    return step.extras.get(Sending(distributor, Action.SET_STRATEGY), {}).get("strategy")


def test_an_operator_changes_the_strategy_of_all_which_is_stored_and_told_to_those_that_have_another() -> None:
    state = a_coordinator()
    take(state, beats=[alive(DISTRIBUTOR, strategy="random"), alive(OTHER, strategy="round_robin")])

    step = take(state, setting({"strategy": "round_robin"}))

    assert (state.strategy, refusals(step, OPERATOR)) == (Strategy.ROUND_ROBIN, [])
    assert record(step, Table.HEADER, "strategies") == {"": "round_robin"}
    assert (told(step, DISTRIBUTOR), told(step, OTHER)) == ("round_robin", None)


def test_a_distributor_can_have_a_strategy_of_its_own_until_that_is_taken_from_it() -> None:
    state = a_coordinator()
    take(state, beats=[alive(DISTRIBUTOR, strategy="least_connections")])

    own = take(state, setting({"strategy": "random", "distributor": "distributor-1"}))
    take(state, beats=[alive(DISTRIBUTOR, beat=2, strategy="random")])
    without = take(state, setting({"strategy": "default", "distributor": "distributor-1"}))

    assert (state.strategy, told(own, DISTRIBUTOR), told(without, DISTRIBUTOR)) == (
        Strategy.LEAST_CONNECTIONS, "random", "least_connections",
    )  # fmt: skip
    assert record(own, Table.HEADER, "strategies") == {"": "least_connections", "distributor-1": "random"}


def test_one_that_joins_with_another_strategy_is_told_and_one_that_names_none_is_not() -> None:
    state = a_coordinator()
    take(state, setting({"strategy": "random"}))

    step = take(state, beats=[alive(DISTRIBUTOR, strategy="least_connections"), alive(OTHER)])

    assert (told(step, DISTRIBUTOR), told(step, OTHER)) == ("random", None)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({"strategy": "fastest"}, "there is no strategy 'fastest'; there are least_connections, round_robin"),
        ({"strategy": "random", "distributor": "../x"}, "agent id '../x' is not allowed"),
        ({"distributor": "d"}, "strategy: missing"),
    ],
)
def test_what_is_no_strategy_or_no_distributor_is_refused_and_changes_nothing(item: Any, why: str) -> None:
    state = a_coordinator()

    [refusal] = refusals(take(state, setting(item)), OPERATOR)

    assert why in refusal["reason"]
    assert (state.strategy, state.own_strategies) == (Strategy.LEAST_CONNECTIONS, {})


def test_only_operators_may_set_a_strategy() -> None:
    check_permitted(Role.OPERATOR, Role.COORDINATOR, Action.SET_STRATEGY)
    with pytest.raises(NotPermitted):
        check_permitted(Role.CLIENT, Role.COORDINATOR, Action.SET_STRATEGY)


@pytest.mark.parametrize(
    ("stored", "strategy", "own"),
    [
        (None, "least_connections", {}),
        (b'{"":"random","d":"geographic"}', "random", {"d": "geographic"}),
        (b'{"":"of the future"}', "least_connections", {}),
        (b"[1", "least_connections", {}),
        (b"[1]", "least_connections", {}),
    ],
)
def test_a_successor_recalls_what_is_stored_as_far_as_it_can_be_read(stored: Any, strategy: str, own: Any) -> None:
    state = CoordinatorState("k")

    recall_strategies(state, stored)

    assert (state.strategy, state.own_strategies) == (strategy, own)


def test_a_distributor_that_is_told_chooses_by_it_and_stores_it() -> None:
    state = distributor_steps.a_distributor(WORKER, distributor_steps.WORKER_2)

    step = distributor_steps.take(state, distributor_steps.to_me(COORDINATOR, Action.SET_STRATEGY, strategy="random"))
    distributor_steps.take(state, distributor_steps.to_me(COORDINATOR, Action.SET_STRATEGY, strategy="of the future"))

    assert state.strategy is Strategy.RANDOM
    assert step.writes[Table.HEADER, ""]["strategy"] == b"random"
