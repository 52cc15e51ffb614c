"""What is said of a task that is none: the field, what it should be, and what it was if its writer is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from msgspec import Raw

from core.errors import BadTask
from core.tasks import Task, check_sizes, checked, to_begin_now
from tests.builders import NOW, a_task

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is what is wrong with it
PRIORITIES = "'urgent', 'critical', 'high', 'normal', 'low'"
WAITS = "task fields 'not_before' and 'delay_s': a task begins at once here; submit it to have it wait"


def made(**fields: Any) -> Callable[[], Task]:
    return lambda: Task(**{"task_type": "sum", **fields})


def read(record: bytes) -> Callable[[], Task]:
    return lambda: Task.from_json(record)


def sized(**fields: Any) -> Callable[[], None]:
    """A task that somebody else wrote."""
    task = Task.from_json(b'{"task_id":"t","task_type":"sum"}').evolve(**fields)
    return lambda: check_sizes(task)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a value that there is not": (made(priority="soon"), f"task field 'priority': expected {PRIORITIES} (got 'soon')"),
    "the same, by others": (
        read(b'{"task_type":"s","priority":"soon"}'), f"task field 'priority': expected {PRIORITIES}",
    ),
    "a status": (
        made(status="x"),
        "task field 'status': expected 'pending', 'in_progress', 'waiting', 'completed', 'failed', 'cancelled',"
        " 'abandoned' (got 'x')",
    ),
    "beyond its bounds": (made(max_attempts=101), "task field 'max_attempts': expected int <= 100 (got '101')"),
    "inside a list": (
        made(capabilities=("x" * 201,)),
        f"task field 'capabilities[0]': expected str of length <= 200 (got \"('{'x' * 78}\")",
    ),
    "a misspelt field": (made(payloda=1), "task field 'payloda': no such field; did you mean 'payload'?"),
    "no metadata": (made(metadata=5), "task field 'metadata': expected a dict (got '5')"),
    "a deadline without a zone": (
        made(deadline=NAIVE),
        "task field 'deadline': expected datetime with a timezone component (got '2026-01-01 00:00:00')",
    ),
    "no type": (lambda: cast(Any, Task)(), "task field 'task_type': missing"),
    "no type, by others": (read(b"{}"), "task field 'task_type': missing"),
    "no object": (read(b"[]"), "this is no task: expected object, got array"),
    "no JSON": (read(b"{"), "this is no task: Input data was truncated"),
    "missing inside": (read(b'{"task_type":"s","errors":[{"type":"x"}]}'), "task field 'errors[0].message': missing"),
    "wrong inside": (read(b'{"task_type":"s","then":{"spawned":-1}}'), "task field 'then.spawned': expected int >= 0"),
    "another type of value": (read(b'{"task_type":"s","task_id":5}'), "task field 'task_id': expected str, got int"),
    "not a task": (
        lambda: checked(cast(Any, {})), "this is a dict, not a task; make it Task(task_type=..., payload=...)",
    ),
    "the system's own": (
        lambda: checked(a_task(result=1)), "task field 'result': the system alone sets it; leave it out",
    ),
    "a copy without a zone": (
        lambda: checked(a_task().evolve(deadline=NAIVE)),
        "task field 'deadline': needs a time zone, such as datetime.now(UTC)",
    ),
    "begins after its deadline": (
        lambda: checked(a_task(not_before=NOW + timedelta(microseconds=1), deadline=NOW)),
        "task field 'not_before': lies after the deadline, so it would never run",
    ),
    "a delay where none can be": (lambda: to_begin_now(a_task(delay_s=1)), WAITS),
    "a moment where none can be": (lambda: to_begin_now(a_task(not_before=NOW)), WAITS),
    "metadata that do not fit": (
        sized(metadata_json={"a": Raw(b'"%s"' % (b"x" * 262_140))}),
        "metadata of task 't' has 262148 bytes as JSON, over the limit of 262144. Store it elsewhere and pass a"
        " reference.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_task_is_said_in_words(name: str) -> None:
    make, words = WRONG[name]

    with pytest.raises(BadTask) as refused:
        make()

    assert str(refused.value) == words


def test_a_task_that_may_begin_when_its_deadline_comes_is_one() -> None:
    assert checked(a_task(not_before=NOW, deadline=NOW)).not_before == NOW
