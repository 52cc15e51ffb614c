"""Rules for Redis users: whose they are, and what cannot get into them."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.operations.acl import chain_of_user, rules_of, rules_of_stream, user_of
from core.roles import Address, Role


def chain(role: Role, agent_id: str = "a", above: str = "k", between: str = "d") -> tuple[Address, ...]:
    me, coordinator = Address(role, agent_id), Address(Role.COORDINATOR, above)
    parents = {Role.COORDINATOR: (), Role.WORKER: (coordinator, Address(Role.DISTRIBUTOR, between))}
    return (*parents.get(role, (coordinator,)), me)


def test_no_two_agents_have_the_same_user() -> None:
    users = {user_of(chain(role, "a", above, between)) for role in Role for above in "kl" for between in "de"}

    assert users == {
        "coordinator:a", "distributor:a", "worker:d/a", "worker:e/a", "client:k/a", "client:l/a", "operator:k/a",
        "operator:l/a",
    }  # fmt: skip


@pytest.mark.parametrize("role", Role)
def test_whose_a_user_is_shows_in_its_name(role: Role) -> None:
    assert chain_of_user(user_of(chain(role)), "k") == chain(role)
    assert chain_of_user("default", "k") is None


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("bad", ["*", "a b", "a) ~*", "a[b]", "a?", "", "a~b", "a\\"])
def test_an_id_that_could_be_a_pattern_or_a_rule_is_refused(role: Role, bad: str) -> None:
    for who in {chain(role, bad), chain(role, "a", bad), chain(role, "a", "k", bad)} - {chain(role)}:
        with pytest.raises(ConfigError):
            rules_of(who)


@pytest.mark.parametrize("bad", ["*", "a b", "a) ~*", "a[b]", "", "coordinator:c", "{shared", "a\\"])
def test_a_stream_whose_name_could_be_a_pattern_a_rule_or_a_hierarchy_gets_no_user(bad: str) -> None:
    with pytest.raises(ConfigError, match="stream"):
        rules_of_stream(bad)


@pytest.mark.parametrize("rules", [*(rules_of(chain(role)) for role in Role), rules_of_stream("agent_events")])
def test_nobody_may_do_what_stops_the_server_or_tells_its_passwords(rules: list[str]) -> None:
    allowed = {rule.strip("(").lstrip("+") for part in rules for rule in part.split()}

    assert not allowed & {
        "eval",
        "evalsha",
        "fcall",
        "config",
        "config|get",
        "keys",
        "scan",
        "flushall",
        "acl",
        "debug",
    }
    assert not any(rule.startswith("@") for rule in allowed)


def test_in_another_database_its_number_is_allowed_and_no_other() -> None:
    who = chain(Role.WORKER)

    assert "+select|3" in rules_of(who, 3)
    assert not any("select" in rule for rule in rules_of(who))
