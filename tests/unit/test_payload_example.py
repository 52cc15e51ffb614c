"""What a newcomer is told to submit first works, or nothing is said."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from core.agents import Health
from core.cli.supervise import _example
from core.overview import AgentView, Overview
from core.roles import Address, Role
from core.status_reports import Beat
from worker.authoring.context import Context
from worker.authoring.example import example_of, first_example
from worker.authoring.handlers import HANDLERS, task
from worker.authoring.registry import Handler, Handlers


class Colour(Enum):
    RED = "red"


class Part(BaseModel):
    name: str = Field(min_length=3, max_length=5)
    colour: Colour


class Order(BaseModel):
    text: str
    count: int = Field(gt=2)
    share: float
    parts: list[Part] = Field(min_length=1)
    made: datetime
    on: date
    key: UUID
    kind: Literal["a", "b"]
    pair: tuple[int, str]
    perhaps: int | None
    left_out: str = "x"


class Tree(BaseModel):
    below: Tree


class Named(BaseModel):
    name: str = Field(pattern="^[0-9]{4}$")


def handler_of(function: Any) -> Handler:
    task("an-example")(function)
    handler = HANDLERS.get("an-example")
    del HANDLERS._by_type["an-example"]
    return handler


def test_a_model_gives_a_payload_that_it_takes_with_the_fields_that_it_needs() -> None:
    def order(payload: Order) -> None: ...
    def orders(payload: list[Order]) -> None: ...

    handler = handler_of(order)
    example = example_of(handler)

    assert isinstance(handler.arguments(json.loads(json.dumps(example)), None)[0], Order)
    assert "left_out" not in example
    assert example_of(handler_of(orders)) == []


def test_who_takes_no_payload_is_given_none() -> None:
    def nothing(ctx: Context) -> None: ...

    assert example_of(handler_of(nothing)) is None


def test_who_does_not_say_what_it_takes_or_takes_what_is_not_found_has_none() -> None:
    def anything(payload: dict[str, Any]) -> None: ...
    def tree(payload: Tree) -> None: ...
    def named(payload: Named) -> None: ...

    for function in (anything, tree, named):
        with pytest.raises(LookupError):
            example_of(handler_of(function))


def test_the_first_type_by_name_that_has_an_example_is_named() -> None:
    handlers = Handlers()
    assert first_example(handlers) == ""

    @task("zeta")
    def zeta(payload: Part) -> None: ...

    @task("alpha")
    def alpha(payload: dict[str, Any]) -> None: ...

    for name in ("zeta", "alpha"):
        handlers.add(HANDLERS._by_type.pop(name))

    assert json.loads(first_example(handlers)) == ["zeta", {"name": "text", "colour": "red"}]


@pytest.mark.parametrize(
    ("example", "shown"),
    [
        ('["t", {"a": "it\'s $(x)"}]', """t '{"a": "it'"'"'s $(x)"}'"""),
        ('["t; rm -rf ~", 1]', ""),
        ("t '{}'", ""),
        ("", ""),
    ],
)
def test_what_is_stored_as_an_example_is_quoted_for_the_shell_or_not_shown(example: str, shown: str) -> None:
    chain = (Address(Role.COORDINATOR, "k"), Address(Role.DISTRIBUTOR, "d"), Address(Role.WORKER, "w"))
    beat = Beat(capabilities=("task:t",), example=example)
    worker = AgentView(chain, Health.ACTIVE, None, beat, 0, 0, 0, 0, 0)

    assert _example(Overview("k", datetime.now(UTC), (worker,), 0, 0, 0, {})) == shown
