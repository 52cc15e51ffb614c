"""Mistakes that a program makes with tasks: each is refused where it is made, and nothing is changed on the quiet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.errors import BadTask, ConfigError
from core.json_values import payload_json, result_json
from core.roles import asker_of
from core.tasks import Task
from distributor.agent import DistributorAgent
from worker.agent import WorkerAgent
from worker.authoring.context import Context

NAN, INFINITY = float("nan"), float("inf")


@dataclass
class Measured:
    mean: float | None


@pytest.mark.parametrize("value", [NAN, -INFINITY, {"a": [1, (2.5, NAN)]}], ids=repr)
def test_a_number_that_json_does_not_have_is_refused_and_not_turned_into_null(value: object) -> None:
    with pytest.raises(BadTask, match="nan or infinity"):
        payload_json("payload", value)
    with pytest.raises(BadTask, match="nan or infinity"):
        result_json({"deep": [Measured(3.5), value]})


def test_a_null_that_was_given_stays_one() -> None:
    assert payload_json("payload", {"a": None, "b": "null", "c": 1.5}) == b'{"a":null,"b":"null","c":1.5}'
    assert result_json(Measured(None)) == b'{"mean":null}'


def test_nan_inside_of_a_dataclass_is_refused_as_well() -> None:
    with pytest.raises(BadTask, match="nan or infinity"):
        result_json([Measured(NAN)])


@pytest.mark.parametrize(
    ("field", "hint"), [("timeout", "did you mean 'timeout_s'"), ("colour", "there are task_id, task_type, ")]
)
def test_a_field_that_a_task_does_not_have_is_refused_with_those_it_has(field: str, hint: str) -> None:
    fields: dict[str, Any] = {"task_type": "t", field: 3}

    with pytest.raises(BadTask, match=f"'{field}': no such field; {hint}"):
        Task(**fields)
    assert Task.from_json(orjson.dumps(fields)).task_type == "t"  # a record may come from a later version


def test_what_is_no_task_is_refused_by_whoever_is_asked_to_take_it() -> None:
    nothing: Any = {"task_type": "t"}

    for take in (
        AgentClient().submit_many,
        lambda tasks: CoordinatorAgent("k").assign_task_to_distributor(tasks[0], "d"),
        lambda tasks: DistributorAgent("d").assign_task_to_worker(tasks[0], "w"),
        lambda tasks: WorkerAgent("w").execute_task(tasks[0]),
    ):
        with pytest.raises(BadTask, match="this is a dict, not a task"):
            take([nothing])


def test_what_the_system_alone_sets_is_refused_by_name_and_not_offered() -> None:
    answered = Task(task_type="t", result=3)

    for take in (
        AgentClient().submit_many,
        Context("parent").spawn,
        lambda tasks: CoordinatorAgent("k").assign_task_to_distributor(tasks[0], "d"),
        lambda tasks: DistributorAgent("d").assign_task_to_worker(tasks[0], "w"),
        lambda tasks: WorkerAgent("w").execute_task(tasks[0]),
    ):
        with pytest.raises(BadTask, match="'result': the system alone sets it"):
            take([answered])
    fields: dict[str, Any] = {"task_type": "t", "result_": 3}
    with pytest.raises(BadTask, match=r"no such field; there are (?!.*(result|reply_to))"):
        Task(**fields)


def test_a_task_that_is_to_wait_is_refused_where_it_would_begin_at_once() -> None:
    later = Task(task_type="t", delay_s=9)

    for take in (DistributorAgent("d").assign_task_to_worker, lambda task, _: WorkerAgent("w").execute_task(task)):
        with pytest.raises(BadTask, match="a task begins at once here"):
            take(later, "w")


@pytest.mark.parametrize(
    ("client_id", "address"), [("bob", "client:bob"), ("bob~9f3c", "client:bob~9f3c"), ("operator:eve", "operator:eve")]
)
def test_a_client_id_names_a_client_unless_it_says_operator(client_id: str, address: str) -> None:
    assert str(asker_of(client_id)) == address


@pytest.mark.parametrize("client_id", ["king:bob", "worker:w", "a b"])
def test_a_client_id_that_names_nobody_is_a_configuration_error(client_id: str) -> None:
    with pytest.raises(ConfigError):
        asker_of(client_id)
