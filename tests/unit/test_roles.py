"""Ids and permissions that are refused, in words that quote only the beginning of what was given."""

from __future__ import annotations

import pytest

from core.errors import ConfigError, NotPermitted
from core.roles import Address, Role, asker_of, check_permitted, options_of
from tests.builders import COORDINATOR, DISTRIBUTOR

CURE = "use 1 to 64 letters, digits, '_', '.', '-', and begin with a letter or digit."


@pytest.mark.parametrize("agent_id", ["", "-a", "a b", "x" * 65, "x" * 81, "w~1"])
def test_an_id_that_is_not_allowed_is_refused_with_what_is(agent_id: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Address.of(Role.WORKER, agent_id)
    assert str(refused.value) == f"agent id {agent_id[:80]!r} is not allowed: {CURE}"


@pytest.mark.parametrize("client_id", ["king:bob", "worker:w", "x" * 80 + ":b"])
def test_a_client_id_that_names_nobody_is_refused_with_the_two_forms(client_id: str) -> None:
    with pytest.raises(ConfigError) as refused:
        asker_of(client_id)
    assert str(refused.value) == f"client id {client_id[:80]!r} is not allowed: give a NAME, or operator:NAME."


def test_what_may_not_be_sent_is_refused_by_name() -> None:
    with pytest.raises(NotPermitted) as refused:
        check_permitted(Role.WORKER, Role.DISTRIBUTOR, "x" * 41)
    assert str(refused.value) == f"a worker may not send '{'x' * 40}' to a distributor"


def test_the_agents_above_are_named_by_options() -> None:
    assert options_of([COORDINATOR, DISTRIBUTOR]) == " --coordinator coordinator-1 --distributor distributor-1"
    assert options_of([]) == ""
