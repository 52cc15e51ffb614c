"""What is wrong with a task is said in one sentence with the field, and what its fields come to when it is recorded."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from pydantic import BaseModel

from core.errors import BadTask, UnlawfulTransition
from core.json_values import PAYLOAD_LIMIT_BYTES
from core.tasks import (
    DEFAULTS,
    Task,
    TaskStatus,
    Then,
    check_new,
    check_sizes,
    new_task_id,
    to_begin_now,
    value_of,
)
from tests.builders import NOW, a_task

S = TaskStatus
LATER = NOW + timedelta(seconds=9)
PRIORITIES = "expected 'urgent', 'critical', 'high', 'normal', 'low'"
LARGE = Raw(b'"%b"' % (b"x" * PAYLOAD_LIMIT_BYTES))
ID, TYPE = "[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,199}", "[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}"
NO_JSON = "is not JSON: Type is not JSON serializable: set: set. Use dicts, lists, strings, numbers, booleans and None."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task_id": "a b"}, f"task field 'task_id': an id that matches {ID} (got 'a b')"),
        ({"task_type": "a b"}, f"task field 'task_type': a name that matches {TYPE} (got 'a b')"),
        ({"task_id": 5}, "task field 'task_id': expected str, got int (got '5')"),
        ({"priority": "soon"}, f"task field 'priority': {PRIORITIES} (got 'soon')"),
        ({"priority": "x" * 81}, f"task field 'priority': {PRIORITIES} (got '{'x' * 80}')"),
        (
            {"status": "soon"},
            "task field 'status': expected 'pending', 'in_progress', 'waiting', 'completed', 'failed', 'cancelled',"
            " 'abandoned' (got 'soon')",
        ),
        ({"metadata": [1]}, "task field 'metadata': expected a dict (got '[1]')"),
        ({"metadata": {"m": {1}}}, f"metadata of task 't' {NO_JSON}"),
        ({"payload": {1}}, f"payload of task 't' {NO_JSON}"),
        ({"result": {1}}, f"result of task 't' {NO_JSON}"),
        ({"capabilities": [1]}, "task field 'capabilities[0]': expected str, got int (got '[1]')"),
        ({"errors": [{"type": "x"}]}, """task field 'errors[0].message': missing (got "[{'type': 'x'}]")"""),
        ({"then": {"spawned": -1}}, """task field 'then.spawned': expected int >= 0 (got "{'spawned': -1}")"""),
    ],
)  # fmt: skip
def test_a_task_of_a_program_is_refused_with_the_field_what_it_needs_and_what_it_got(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadTask) as refused:
        Task(**{"task_type": "t", "task_id": "t", **fields})
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"[]", "this is no task: expected object, got array"),
        (b"{}", "task field 'task_type': missing"),
        (b"{", "this is no task: Input data was truncated"),
        (b'{"task_type":"t","priority":"secret"}', f"task field 'priority': {PRIORITIES}"),
        (b'{"task_type":"t","attempt":-1}', "task field 'attempt': expected int >= 0"),
        (b'{"task_type":"t","errors":[{"type":"x"}]}', "task field 'errors[0].message': missing"),
        (b'{"task_type":"t","then":{"spawned":"secret"}}', "task field 'then.spawned': expected int, got str"),
    ],
)
def test_a_record_that_is_no_task_is_refused_with_the_field_and_quoted_nowhere(record: bytes, words: str) -> None:
    for given in (record, Raw(record)):
        with pytest.raises(BadTask) as refused:
            Task.from_json(given)
        assert str(refused.value) == words


def test_numbers_may_be_given_as_text_and_all_fields_at_once() -> None:
    as_text: dict[str, Any] = {"timeout_s": "5", "max_attempts": "3"}
    assert a_task(**as_text) == a_task(timeout_s=5, max_attempts=3)
    every = a_task().to_dict()
    assert set(every) == set(DEFAULTS)
    assert Task(**every) == a_task()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deadline": datetime(2026, 1, 1)}, "task field 'deadline': needs a time zone, such as datetime.now(UTC)"),  # noqa: DTZ001
        (
            {"not_before": LATER, "deadline": NOW},
            "task field 'not_before': lies after the deadline, so it would never run",
        ),
        ({"attempt": 1}, "task field 'attempt': the system alone sets it; leave it out"),
        ({"result_json": Raw(b"1")}, "task field 'result': the system alone sets it; leave it out"),
    ],
)
def test_a_new_task_that_cannot_run_is_refused_with_the_cure(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadTask) as refused:
        check_new(a_task().evolve(**changes))
    assert str(refused.value) == words


@pytest.mark.parametrize("changes", [{"not_before": LATER}, {"deadline": NOW}, {"not_before": NOW, "deadline": NOW}])
def test_a_task_may_wait_up_to_its_deadline(changes: dict[str, Any]) -> None:
    check_new(a_task().evolve(**changes))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("payload_json", LARGE, "payload of task 't' has 262146 bytes"),
        ("metadata_json", {"m": LARGE}, "metadata of task 't' has 262152 bytes"),
    ],
)
def test_what_others_wrote_is_refused_over_its_limits(field: str, value: Any, words: str) -> None:
    check_sizes(a_task(payload="x", metadata={"m": 1}))
    with pytest.raises(BadTask, match=words):
        check_sizes(a_task().evolve(**{field: value}))


def test_a_task_that_must_wait_begins_nowhere_at_once() -> None:
    assert to_begin_now(a_task()) == a_task()
    for changes in ({"not_before": LATER}, {"delay_s": 1.0}):
        with pytest.raises(BadTask) as refused:
            to_begin_now(a_task(**changes))
        assert str(refused.value) == (
            "task fields 'not_before' and 'delay_s': a task begins at once here; submit it to have it wait"
        )


def test_a_field_that_is_no_json_is_said_to_be_unreadable() -> None:
    with pytest.raises(BadTask, match=r"^a field that was received cannot be read: "):
        value_of(Raw(b"1e999999"))


# ---- the values ----


@pytest.mark.parametrize(
    ("fields", "not_before"),
    [
        ({}, None),
        ({"not_before": LATER}, LATER),
        ({"delay_s": 4.0}, NOW + timedelta(seconds=4)),
        ({"delay_s": 4.0, "not_before": LATER}, LATER),
        ({"delay_s": 10.0, "not_before": LATER}, NOW + timedelta(seconds=10)),
    ],
)
def test_a_recorded_task_begins_after_its_delay_and_never_before_it_may(
    fields: dict[str, Any], not_before: datetime | None
) -> None:
    opened = a_task(created_at=LATER, **fields).opened(NOW, owner="client:bob")
    assert opened == a_task(owner="client:bob", not_before=not_before)


def test_an_untouched_task_has_nothing_of_what_it_says_has_happened_to_it() -> None:
    told = a_task(priority="high", status="completed", result=1, attempt=7, children=("x",), then=Then(spawned=1))
    assert told.untouched().opened(NOW, owner="client:bob") == a_task(priority="high", owner="client:bob")


def test_a_forbidden_move_is_named() -> None:
    with pytest.raises(UnlawfulTransition) as refused:
        a_task().moved(S.COMPLETED, NOW)
    assert str(refused.value) == "task t: pending -> completed"


def test_a_fresh_id_has_eighty_random_bits() -> None:
    assert re.fullmatch("task-[0-9a-f]{20}", new_task_id())


def test_a_task_shows_its_fields_as_they_travel() -> None:
    assert repr(a_task(payload=[1])) == (
        "Task(task_id='t', task_type='sum', payload=[1], created_at='2026-01-01T12:00:00Z')"
    )


def test_a_model_takes_a_task_or_its_fields_and_gives_all_of_them() -> None:
    class Holder(BaseModel):
        task: Task

    task = a_task(payload=[1])
    assert Holder(task=task).task == Holder.model_validate({"task": task.to_dict()}).task == task
    assert Holder(task=task).model_dump() == {"task": task.to_dict()}
    with pytest.raises(BadTask, match=r"^this is a int, not a task$"):
        Holder.model_validate({"task": 1})
