"""What a coordinator does about schedules: set, paused, listed by their owners; and each firing is one task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from coordinator.schedules import FIRED_AT_ONCE, due_ids, next_firing_ms, recall_schedules
from coordinator.state import CoordinatorState
from core.event_types import EventType
from core.roles import Action, Address, Role
from core.schedules import Schedule
from core.step import Drain, Step, Table
from tests.builders import CLIENT, NOW, a_batch, record
from tests.coordinator_steps import CLIENT_2, GRAPH, a_coordinator, refusals, take, to_me

OPERATOR = Address(Role.OPERATOR, "ops~1")
MINUTE: dict[str, Any] = {"name": "poll", "task": {"task_type": "sum", "payload": [1]}, "every_s": 60}


def setting(client: Address = CLIENT, **fields: Any) -> Any:
    return to_me(client, Action.SET_SCHEDULE, [MINUTE | fields])


def scheduled(**fields: Any) -> CoordinatorState:
    state = a_coordinator(max_open_tasks=fields.pop("max_open_tasks", 1000))
    step = take(state, setting(**fields))
    assert refusals(step) == []
    return state


def told(step: Step, *kinds: EventType) -> list[Any]:
    return [facts for kind, _, _, *facts in step.events if kind in kinds]


def opened(step: Step) -> list[str]:
    return [task_id for kind, task_id, *_ in step.events if kind is EventType.SCHEDULE_FIRED]


def at(state: CoordinatorState, later_s: float, **fields: Any) -> Step:
    """The step in which nothing but time has come."""
    return take(state, later_s=later_s, **fields)


def listed(state: CoordinatorState, client: Address, **wanted: Any) -> list[str]:
    step = take(state, to_me(client, Action.LIST_SCHEDULES, [{"listing": "l", **wanted}]))
    [extra] = [extra for sending, extra in step.extras.items() if sending.recipient == client]
    return [each["name"] for each in extra["schedules"]["l"]]


def test_a_firing_opens_one_task_in_the_transaction_that_moves_its_schedule_on() -> None:
    state = scheduled()
    assert next_firing_ms(state) == int(NOW.timestamp() * 1000) + 60_000
    assert opened(at(state, 59.9)) == []

    step = at(state, 60)

    assert opened(step) == ["poll@2026-01-01T12:01:00Z"]
    task = record(step, Table.TASKS, "poll@2026-01-01T12:01:00Z")
    assert (task["payload"], task["owner"]) == ([1], "client:client-1")
    assert record(step, Table.SCHEDULES, "poll")["fired_until"] == "2026-01-01T12:01:00Z"
    assert opened(at(state, 60.5)) == []
    assert opened(at(state, 120)) == ["poll@2026-01-01T12:02:00Z"]
    assert state.schedules["poll"].opened == 2


def test_a_firing_notes_in_its_transaction_whom_gateways_are_to_call() -> None:
    state = scheduled(webhook="https://hooks.example/ended")
    step = at(state, 60)
    [task_id] = opened(step)
    assert step.writes[Table.WEBHOOKS, ""] == {task_id: b"https://hooks.example/ended"}
    assert Table.WEBHOOKS not in {table for table, _ in at(scheduled(), 60).writes}


def test_a_schedule_whose_webhook_nobody_can_call_is_refused() -> None:
    [refusal] = refusals(take(a_coordinator(), setting(webhook="ftp://hooks.example/")))
    assert "give a URL as https" in str(refusal)


def test_a_successor_goes_on_where_the_last_commit_has_left_it() -> None:
    state = scheduled()
    at(state, 60)
    successor = a_coordinator()
    recall_schedules(successor, [Schedule.from_json(state.schedules["poll"].to_json())])
    assert opened(at(successor, 60)) == []
    assert opened(at(successor, 125)) == ["poll@2026-01-01T12:02:00Z"]


def test_a_task_that_is_there_already_is_not_opened_again() -> None:
    state = scheduled()
    assert due_ids(state, NOW + timedelta(seconds=61)) == ["poll@2026-01-01T12:01:00Z"]
    ended = b'{"task_id":"poll@2026-01-01T12:01:00Z","task_type":"other","status":"completed"}'
    assert opened(at(state, 60, stored={"poll@2026-01-01T12:01:00Z": ended})) == []
    assert opened(at(state, 120)) == ["poll@2026-01-01T12:02:00Z"]


def test_firings_wait_for_room_and_are_told_of_once() -> None:
    state = scheduled(max_open_tasks=1)
    at(state, 60)
    step = at(state, 120)
    assert opened(step) == []
    [(name, time, why)] = told(step, EventType.SCHEDULE_DELAYED)
    assert (name, time) == ("poll", "2026-01-01T12:02:00Z")
    assert "MAX_OPEN_TASKS" in why
    step = at(state, 200)
    assert (opened(step), told(step, EventType.SCHEDULE_DELAYED)) == ([], [])
    successor = a_coordinator()
    recall_schedules(successor, [state.schedules["poll"]])
    assert opened(at(successor, 201)) == ["poll@2026-01-01T12:02:00Z", "poll@2026-01-01T12:03:00Z"]


def test_a_firing_that_no_room_would_help_is_given_up_and_told() -> None:
    state = scheduled(task={"task_type": "sum", "run": {"thread_id": "t", "multitask": "reject"}})
    at(state, 60)
    step = at(state, 120)
    [(name, time, why)] = told(step, EventType.SCHEDULE_REFUSED)
    assert (name, time) == ("poll", "2026-01-01T12:02:00Z")
    assert "is busy" in why
    assert state.schedules["poll"].owed == ()


def test_what_was_missed_is_told_and_made_up_for_in_steps_of_a_bounded_length() -> None:
    state = scheduled(missed="all")
    step = at(state, 3600 * 4 + 45)
    assert told(step, EventType.SCHEDULE_MISSED) == [["poll", "2026-01-01T12:01:00Z", "all"]]
    assert len(opened(step)) == FIRED_AT_ONCE
    assert len(opened(at(state, 3600 * 4 + 46))) == FIRED_AT_ONCE
    assert len(opened(at(state, 3600 * 4 + 47))) == 240 - 2 * FIRED_AT_ONCE


def test_a_clock_that_was_set_back_opens_nothing_again() -> None:
    state = scheduled()
    at(state, 60)
    at(state, 120)
    assert opened(at(state, -3600)) == []
    assert opened(at(state, 61)) == []
    assert opened(at(state, 180)) == ["poll@2026-01-01T12:03:00Z"]


def test_a_coordinator_that_drains_leaves_firings_to_its_successor() -> None:
    state = scheduled()
    GRAPH.run(state, a_batch(events=[Drain()], later_s=1))
    assert next_firing_ms(state) is None
    assert opened(at(state, 61)) == []
    successor = a_coordinator()
    recall_schedules(successor, [state.schedules["poll"]])
    assert opened(at(successor, 62)) == ["poll@2026-01-01T12:01:00Z"]


def test_a_paused_schedule_opens_nothing_and_goes_on_from_its_resumption() -> None:
    state = scheduled()
    assert refusals(take(state, to_me(CLIENT, Action.PAUSE_SCHEDULE, ["poll"]))) == []
    assert opened(at(state, 200)) == []
    step = take(state, to_me(CLIENT, Action.RESUME_SCHEDULE, ["poll"]), later_s=210)
    assert told(step, EventType.SCHEDULE_RESUMED) == [["poll", "client:client-1"]]
    assert opened(at(state, 215)) == []
    assert opened(at(state, 240)) == ["poll@2026-01-01T12:04:00Z"]


def test_a_schedule_that_a_clock_far_ahead_has_used_up_goes_on_when_it_is_resumed() -> None:
    state = scheduled()
    at(state, 86_400 * 365)
    assert opened(at(state, 120)) == []
    take(state, to_me(CLIENT, Action.RESUME_SCHEDULE, ["poll"]), later_s=120)
    assert opened(at(state, 180)) == ["poll@2026-01-01T12:03:00Z"]


def test_a_removed_schedule_is_gone_and_its_tasks_stay() -> None:
    state = scheduled()
    at(state, 60)
    step = take(state, to_me(CLIENT, Action.REMOVE_SCHEDULE, ["poll"]), later_s=61)
    assert step.writes[Table.SCHEDULES, ""] == {"poll": None}
    assert "poll@2026-01-01T12:01:00Z" in state.local_tasks
    assert opened(at(state, 120)) == []
    assert refusals(take(state, to_me(CLIENT, Action.REMOVE_SCHEDULE, ["poll"])))[0]["reason"] == "unknown schedule"


def test_the_same_schedule_once_more_changes_nothing() -> None:
    state = scheduled()
    step = take(state, setting(), later_s=30)
    assert (Table.SCHEDULES, "") not in step.writes
    assert opened(at(state, 60)) == ["poll@2026-01-01T12:01:00Z"]


@pytest.mark.parametrize(
    ("change", "next_s"),
    [({"task": {"task_type": "x"}}, 60), ({"every_s": 50}, 80), ({"missed": "all"}, 60)],
)
def test_only_another_timing_begins_anew(change: dict[str, Any], next_s: int) -> None:
    state = scheduled()
    take(state, setting(**change), later_s=30)
    assert opened(at(state, next_s - 0.1)) == []
    assert opened(at(state, next_s)) != []


def test_clients_see_and_change_their_own_and_operators_all() -> None:
    state = scheduled()
    take(state, setting(CLIENT_2, name="other"))
    assert listed(state, CLIENT) == ["poll"]
    assert listed(state, CLIENT_2) == ["other"]
    assert listed(state, OPERATOR) == ["other", "poll"]
    assert listed(state, OPERATOR, limit=1) == ["other"]
    assert listed(state, OPERATOR, after="other") == ["poll"]
    assert listed(state, CLIENT_2, name="poll") == []
    for action in (Action.PAUSE_SCHEDULE, Action.RESUME_SCHEDULE, Action.REMOVE_SCHEDULE):
        [refusal] = refusals(take(state, to_me(CLIENT_2, action, ["poll"])), CLIENT_2)
        assert refusal == {"task_id": "poll", "reason": "unknown schedule"}
    [refusal] = refusals(take(state, setting(CLIENT_2)), CLIENT_2)
    assert "in use by another client" in refusal["reason"]
    take(state, setting(OPERATOR, every_s=30))
    assert state.schedules["poll"].owner == "client:client-1"


def test_who_names_the_tenant_changes_a_schedule_only_if_it_is_of_that() -> None:
    state = a_coordinator()
    take(state, to_me(CLIENT, Action.SET_SCHEDULE, [MINUTE | {"task": {"task_type": "sum", "tenant": "acme"}}]))
    for action in (Action.PAUSE_SCHEDULE, Action.RESUME_SCHEDULE, Action.REMOVE_SCHEDULE):
        [refusal] = refusals(take(state, to_me(CLIENT, action, [{"name": "poll", "tenant": "globex"}])))
        assert refusal == {"task_id": "poll", "reason": "unknown schedule"}
        assert not state.schedules["poll"].paused
    assert refusals(take(state, to_me(CLIENT, Action.PAUSE_SCHEDULE, [{"name": "poll", "tenant": "acme"}]))) == []
    assert state.schedules["poll"].paused
    assert refusals(take(state, to_me(CLIENT, Action.REMOVE_SCHEDULE, [{"name": "poll", "tenant": "acme"}]))) == []
    assert state.schedules == {}


def test_of_two_tenants_that_set_one_name_at_one_moment_the_first_has_it() -> None:
    state = a_coordinator()
    acme, globex = ({"task_type": "sum", "payload": [1], "tenant": tenant} for tenant in ("acme", "globex"))
    asked = [MINUTE | {"task": acme}, MINUTE | {"task": globex}, MINUTE | {"task": acme, "every_s": 30}]
    step = take(state, to_me(CLIENT, Action.SET_SCHEDULE, asked))
    [refusal] = refusals(step)
    assert refusal["reason"] == (
        "schedule name 'poll' is in use for another tenant; choose another name, or remove it first"
    )
    assert (state.schedules["poll"].task.tenant, state.schedules["poll"].every_s) == ("acme", 30)


def test_a_schedule_is_checked_where_it_comes_in() -> None:
    state = a_coordinator()
    bad = [MINUTE | {"every_s": None}, MINUTE | {"owner": "client:eve", "fired_until": "2020-01-01T00:00:00Z"}]
    step = take(state, to_me(CLIENT, Action.SET_SCHEDULE, bad))
    [refusal] = refusals(step)
    assert refusal["task_id"] == "poll"
    assert state.schedules["poll"].owner == "client:client-1"
    assert state.schedules["poll"].fired_until == NOW
    many = [MINUTE | {"name": f"s{number}"} for number in range(17)]
    [refusal] = refusals(take(state, to_me(CLIENT, Action.SET_SCHEDULE, many)))
    assert "at most 16 schedules" in refusal["reason"]


def test_there_is_room_for_schedules_as_there_is_for_tasks() -> None:
    state = a_coordinator(max_open_tasks=1)
    take(state, setting(every_s=1))
    at(state, 1)
    [refusal] = refusals(take(state, setting(name="second"), later_s=1))
    assert "MAX_OPEN_TASKS" in refusal["reason"]
    assert orjson.loads(state.schedules["poll"].to_json())["recent"] == ["poll@2026-01-01T12:00:01Z"]
