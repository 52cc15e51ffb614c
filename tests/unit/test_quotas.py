"""Quotas of tenants and of types: what is handed out, and what is held back until when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import orjson
import pytest

from coordinator.rules import recall
from coordinator.state import CoordinatorState
from coordinator.usage import next_release_ms, recall_quotas
from core.errors import BadTask, NotPermitted
from core.quotas import Quota, quota_of
from core.reports import item_of
from core.roles import Action, Address, Role, check_permitted
from core.step import Step, Table
from tests.builders import DISTRIBUTOR, NOW, a_task, sent
from tests.coordinator_steps import a_coordinator, alive, refusals, result, submitted, take, to_me

OPERATOR = Address(Role.OPERATOR, "cli")
NOW_MS = int(NOW.timestamp() * 1000)


def with_quota(name: str, **limits: int) -> CoordinatorState:
    state = a_coordinator(DISTRIBUTOR)
    take(state, to_me(OPERATOR, Action.SET_QUOTA, [msgspec.to_builtins(quota_of(name, **limits))]))
    return state


def handed(step: Step) -> list[str]:
    return [item["task_id"] for item in sent(step, DISTRIBUTOR, Action.ASSIGN_TASK)]


def some(count: int, **fields: Any) -> list[Any]:
    return [a_task(f"t{number}", **fields) for number in range(count)]


@pytest.mark.parametrize("name", ["tenant:acme", "type:sum"])
def test_no_more_tasks_are_in_flight_than_a_quota_allows_and_the_next_begins_when_one_has_ended(name: str) -> None:
    state = with_quota(name, at_once=2)
    others = a_task("other", tenant="others", task_type="x")

    assert sorted(handed(take(state, submitted(*some(4, tenant="acme"), others)))) == ["other", "t0", "t1"]
    assert handed(take(state, result("t0"))) == ["t2"]
    assert handed(take(state, result("t1", "failed"))) == ["t3"]


def test_the_quota_of_the_client_holds_for_tasks_that_name_no_tenant() -> None:
    state = with_quota("tenant:client:client-1", at_once=1)
    assert handed(take(state, submitted(*some(2)))) == ["t0"]


def test_no_more_tasks_begin_in_a_minute_than_a_quota_allows_but_for_a_burst_of_a_tenth() -> None:
    state = with_quota("tenant:acme", per_minute=20)

    assert handed(take(state, submitted(*some(5, tenant="acme")))) == ["t0", "t1"]
    due_ms = next_release_ms(state, NOW_MS)
    assert due_ms == NOW_MS + 3_000
    assert handed(take(state, beats=[alive(DISTRIBUTOR, beat=2)], later_s=2.999)) == []
    assert handed(take(state, later_s=3.0)) == ["t2"]
    assert handed(take(state, beats=[alive(DISTRIBUTOR, beat=9)], later_s=60.0)) == ["t3", "t4"]


def test_a_task_that_waits_for_its_children_is_not_in_flight() -> None:
    state = with_quota("type:sum", at_once=1)
    take(state, submitted(a_task("a"), a_task("b")))

    step = take(state, result("a", "delegated", children=[{"task_id": "c", "task_type": "x"}]))
    assert sorted(handed(step)) == ["b", "c"]


def test_a_quota_that_is_set_counts_what_is_in_flight_already_and_one_that_is_removed_holds_nothing_back() -> None:
    state = a_coordinator(DISTRIBUTOR)
    take(state, submitted(*some(2)))
    take(state, to_me(OPERATOR, Action.SET_QUOTA, [{"name": "type:sum", "at_once": 2}]))
    assert state.quotas["type:sum"].in_flight == 2

    assert handed(take(state, submitted(a_task("late")))) == []
    step = take(state, to_me(OPERATOR, Action.SET_QUOTA, [{"name": "type:sum"}]))

    assert handed(step) == ["late"]
    assert (step.writes[Table.QUOTAS, ""], state.quotas) == ({"type:sum": None}, {})


def test_a_quota_of_none_stops_a_tenant_and_those_of_others_go_on() -> None:
    state = with_quota("tenant:acme", at_once=0)
    assert handed(take(state, submitted(a_task("a", tenant="acme"), a_task("b")))) == ["b"]


def test_a_rate_that_is_set_anew_gives_no_new_burst() -> None:
    state = with_quota("type:sum", per_minute=20)
    take(state, submitted(*some(3)))
    step = take(state, to_me(OPERATOR, Action.SET_QUOTA, [{"name": "type:sum", "per_minute": 21}]))
    assert handed(step) == []


def test_the_weight_of_a_tenant_decides_how_often_it_is_in_turn() -> None:
    state = a_coordinator()
    take(state, to_me(OPERATOR, Action.SET_QUOTA, [{"name": "tenant:b", "weight": 3}]))
    tasks = [a_task(f"{tenant}{number}", tenant=tenant) for number in range(9) for tenant in "ab"]
    take(state, submitted(*tasks))

    step = take(state, beats=[alive(DISTRIBUTOR, capacity=8)])
    assert [task_id[0] for task_id in handed(step)].count("b") == 6


def test_quotas_are_stored_in_the_commit_that_sets_them_and_hold_for_a_successor_without_its_burst() -> None:
    state = a_coordinator(DISTRIBUTOR)
    step = take(state, to_me(OPERATOR, Action.SET_QUOTA, [{"name": "type:sum", "at_once": 3, "per_minute": 60}]))
    stored = step.writes[Table.QUOTAS, ""]["type:sum"]
    assert orjson.loads(bytes(stored or b"")) == {"at_once": 3, "per_minute": 60}
    take(state, submitted(*some(2)))

    successor = CoordinatorState("coordinator-1")
    recall(successor, [*state.local_tasks.values(), a_task("new")], {}, 0)
    recall_quotas(successor, {"type:sum": Quota(at_once=3, per_minute=60)}, NOW_MS)

    assert successor.quotas["type:sum"].in_flight == 2
    assert handed(take(successor, beats=[alive(DISTRIBUTOR)])) == []
    assert handed(take(successor, later_s=1.0)) == ["new"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"name": "acme", "weight": 1}, "a quota is that of tenant:NAME or type:TASK_TYPE (got 'acme')"),
        ({"name": "tenant:", "weight": 1}, "a quota is that of tenant:NAME"),
        ({"name": "type:a b", "at_once": 1}, "a quota is that of tenant:NAME"),
        ({"name": "type:sum", "weight": 2}, "a weight is a tenant's"),
        ({"name": "tenant:a", "weight": 0}, "this is no quota: Expected `int` >= 1"),
        ({"weight": 1}, "missing required field `name`"),
    ],
)
def test_a_quota_that_means_nothing_is_refused_and_the_others_are_set(item: dict[str, Any], words: str) -> None:
    state = a_coordinator(DISTRIBUTOR)
    step = take(state, to_me(OPERATOR, Action.SET_QUOTA, [item, {"name": "tenant:good", "weight": 2}]))

    [refused] = refusals(step, OPERATOR)
    assert words in refused["reason"]
    assert list(state.quotas) == ["tenant:good"]


def test_a_client_sets_no_quotas() -> None:
    check_permitted(Role.OPERATOR, Role.COORDINATOR, Action.SET_QUOTA)
    with pytest.raises(NotPermitted):
        check_permitted(Role.CLIENT, Role.COORDINATOR, Action.SET_QUOTA)


def test_a_program_that_asks_for_nonsense_is_told_which_field() -> None:
    with pytest.raises(BadTask, match=r"quota 'tenant:a': weight: expected int <= 1000"):
        quota_of("tenant:a", weight=1_001)
    assert item_of(quota_of("tenant:a")) == b'{"name":"tenant:a"}'


def test_what_waits_for_what_is_told_with_each_heartbeat_and_only_when_it_has_changed() -> None:
    state = with_quota("tenant:acme", at_once=1)
    take(
        state,
        submitted(
            *some(4, tenant="acme"), a_task("later", not_before=NOW + timedelta(hours=1)), a_task("odd", task_type="no")
        ),
    )
    step = take(state, beats=[alive(DISTRIBUTOR, beat=2)])

    assert orjson.loads(bytes(step.writes[Table.HEADER, ""]["waiting"] or b"")) == {
        "waiting": {"nobody_has": 1, "not_before": 1, "quota": 3, "unread": 1},
        "quotas": {"tenant:acme": {"in_flight": 1, "at_once": 1, "per_minute": None, "full": True, "until_ms": None}},
        "draining": False,
    }
    assert "waiting" not in take(state, beats=[alive(DISTRIBUTOR, beat=3)]).writes.get((Table.HEADER, ""), {})
