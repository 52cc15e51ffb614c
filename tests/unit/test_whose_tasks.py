"""Who may be told of a task, and touch it."""

from __future__ import annotations

import pytest

from core.access import may_touch, owner_of
from core.roles import Address, Role
from tests.builders import a_task

BOB, BOBS_SESSION = Address(Role.CLIENT, "bob"), Address(Role.CLIENT, "bob~1")
EVE, OPERATOR = Address(Role.CLIENT, "eve"), Address(Role.OPERATOR, "bob")


@pytest.mark.parametrize(
    ("asker", "shared_with", "may"),
    [
        (BOB, (), True),
        (BOBS_SESSION, (), True),
        (OPERATOR, (), True),
        (EVE, (), False),
        (EVE, ("carol",), False),
        (EVE, ("carol", "eve"), True),
        (EVE, ("*",), True),
        (Address(Role.CLIENT, "eve~2"), ("eve",), True),
    ],
)
def test_a_task_is_its_clients_its_operators_and_of_those_it_is_shared_with(
    asker: Address, shared_with: tuple[str, ...], may: bool
) -> None:
    task = a_task(owner=owner_of(BOBS_SESSION), shared_with=shared_with)

    assert task.owner == "client:bob"
    assert may_touch(asker, task) is may
