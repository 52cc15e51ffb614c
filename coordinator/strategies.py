"""By which strategies tasks are handed out: what operators set, and what distributors are told of it. No I/O, no clock.

A distributor's heartbeat says by which strategy it chooses. As long as that is not the wanted one, it is told again, so
that one which comes later, or has lost its memory, hears of it too. One of an earlier release names none, and hears
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Raw

from coordinator.state import CoordinatorState
from coordinator.task_life import answer
from core.agents import Subordinate
from core.errors import ConfigError, MalformedMessage, UserError
from core.reports import Answer, Refusal, shown_id, strategy_wanted
from core.roles import Action, Address, Role
from core.step import Batch, Received, Sending, Step, Table
from core.strategies import DEFAULT, OF_NONE, Strategy, strategy_named

__all__ = ["on_set_strategy", "recall_strategies", "tell_strategy"]

#: Number of distributors that may have strategies of their own.
MAX_OWN = 1_000


def on_set_strategy(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes the strategies that an operator sets."""
    refused = []
    for item in received.message.tasks:
        try:
            set_strategy(state, item)
        except (MalformedMessage, UserError, ConfigError) as error:
            refused.append(Refusal(shown_id(None), str(error)))
    step.put(Table.HEADER, "strategies", orjson.dumps({"": state.strategy, **state.own_strategies}))
    for child in state.distributors.values():
        tell_strategy(state, child, step)
    step.note("strategy_set", strategy=state.strategy, own=[*state.own_strategies], by=str(received.sender))
    answer(received, Answer(refused=tuple(refused)), step)


def set_strategy(state: CoordinatorState, item: Raw) -> None:
    """Changes a strategy. Raises MalformedMessage, UserError, ConfigError: why it does not."""
    wanted = strategy_wanted(item)
    if wanted.distributor is None:
        state.strategy = DEFAULT if wanted.strategy == OF_NONE else strategy_named(wanted.strategy)
        return
    name = Address.of(Role.DISTRIBUTOR, wanted.distributor).agent_id
    if wanted.strategy == OF_NONE:
        state.own_strategies.pop(name, None)
        return
    chosen = strategy_named(wanted.strategy)
    if len(state.own_strategies) >= MAX_OWN and name not in state.own_strategies:
        raise UserError(f"{MAX_OWN} distributors have strategies of their own: remove one, by setting it to {OF_NONE}")
    state.own_strategies[name] = chosen


def tell_strategy(state: CoordinatorState, child: Subordinate, step: Step) -> None:
    """Tells a distributor its strategy, if its last heartbeat names another one."""
    strategy = state.own_strategies.get(child.name, state.strategy)
    if child.beat.strategy not in ("", strategy):
        step.extras[Sending(child.address, Action.SET_STRATEGY)] = {"strategy": strategy.value}


def recall_strategies(state: CoordinatorState, stored: bytes | None) -> None:
    """Takes the strategies that are stored. What is none is passed over: a table without the name of one is as good."""
    try:
        told: Mapping[str, Any] = orjson.loads(stored or b"{}")
        found = {name: Strategy(value) for name, value in told.items()}
    except (ValueError, AttributeError):
        return
    state.strategy = found.pop("", DEFAULT)
    state.own_strategies = found
