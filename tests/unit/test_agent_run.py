"""What a client says about a run travels with its task, costs nothing where it is not said, and is refused in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import orjson
import pytest
from msgspec import Raw

from core.agent_run import RunOptions, Stream, is_thread_id
from core.errors import BadTask
from core.json_values import PAYLOAD_LIMIT_BYTES
from core.tasks import Task, as_received, check_sizes
from tests.builders import a_task

EVERYTHING: dict[str, Any] = {
    "thread_id": "ada's conversation",
    "context": {"user_id": "ada", "beta": None},
    "config": {
        "configurable": {"model": "small", "checkpointer": "mine"},
        "tags": ["a"],
        "metadata": {"n": 1},
        "run_name": "r",
        "recursion_limit": 7,
    },
    "durability": "async",
    "multitask": "interrupt",
    "interrupt_before": ["*"],
    "interrupt_after": ["write", "review"],
    "on_change": "fail",
    "stream": list(get_args(Stream)),
    "update": {"as_node": "write", "checkpoint_id": "c"},
}


@dataclass
class User:
    user_id: str


def test_all_that_is_said_about_a_run_travels_with_its_task() -> None:
    for run in (RunOptions(**EVERYTHING), EVERYTHING):
        task = as_received(a_task(run=run))
        assert task.run == RunOptions(**EVERYTHING)
        assert orjson.loads(task.to_json())["run"] == EVERYTHING
        assert task.to_dict()["run"] == EVERYTHING
        assert Task(**task.to_dict()) == task
        assert task.run.context == EVERYTHING["context"]
        assert task.run.config == EVERYTHING["config"]


def test_a_task_without_a_run_says_nothing_of_it_and_a_run_only_what_was_chosen() -> None:
    assert b"run" not in a_task().to_json()
    assert a_task(run=None).run is None
    assert orjson.loads(a_task(run=RunOptions(thread_id="t")).to_json())["run"] == {"thread_id": "t"}
    assert orjson.loads(a_task(run=RunOptions(context=None, config=None)).to_json())["run"] == {}
    assert (RunOptions().context, RunOptions().config) == (None, {})


def test_a_context_may_be_a_dataclass_and_is_copied() -> None:
    context = {"user": User("ada")}
    run = RunOptions(context=context)
    context["user"] = User("bob")
    assert run.context == {"user": {"user_id": "ada"}}
    assert RunOptions(context=User("ada")).context == {"user_id": "ada"}


OBJECT = "expected an object, such as"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"thread": "t"}, "run option 'thread': no such option; did you mean 'thread_id'?"),
        (
            {"thread_id": ""},
            "run option 'thread_id': expected 1 to 200 characters without control characters and braces (got '')",
        ),
        (
            {"thread_id": 5},
            "run option 'thread_id': expected 1 to 200 characters without control characters and braces (got '5')",
        ),
        ({"context": [1]}, f"run option 'context': {OBJECT} {{'user_id': 'ada'}} (got '[1]')"),
        ({"context": {1}}, "run option 'context' is not JSON: Type is not JSON serializable: set: set. Use dicts,"),
        ({"context": {"x": float("nan")}}, "run option 'context' holds nan or infinity, which JSON does not have."),
        ({"context": {"x": "x" * PAYLOAD_LIMIT_BYTES}}, "run option 'context' has 262152 bytes as JSON"),
        ({"config": "x"}, f"run option 'config': {OBJECT} {{'configurable': {{'model': 'small'}}}} (got 'x')"),
        ({"config": {"tag": []}}, "run option 'config': 'tag' is not a client's to set; did you mean 'tags'?"),
        (
            {"config": {"callbacks": []}},
            "run option 'config': 'callbacks' is not a client's to set; there are configurable, tags, metadata,"
            " run_name, recursion_limit",
        ),
        ({"config": {"tags": "x"}}, "run option 'config': 'tags' must be a list of strings (got 'x')"),
        ({"config": {"tags": [1]}}, "run option 'config': 'tags' must be a list of strings (got '[1]')"),
        ({"config": {"metadata": 1}}, "run option 'config': 'metadata' must be an object (got '1')"),
        ({"config": {"configurable": [1]}}, "run option 'config': 'configurable' must be an object (got '[1]')"),
        ({"config": {"run_name": 1}}, "run option 'config': 'run_name' must be a string (got '1')"),
        (
            {"config": {"recursion_limit": True}},
            "run option 'config': 'recursion_limit' must be a whole number above 0 (got 'True')",
        ),
        (
            {"config": {"recursion_limit": 0}},
            "run option 'config': 'recursion_limit' must be a whole number above 0 (got '0')",
        ),
        (
            {"config": {"configurable": {"thread_id": "t"}}},
            "run option 'config': LangGraph keeps 'thread_id' of 'configurable' for itself; use the option thread_id",
        ),
        (
            {"config": {"configurable": {"checkpoint_ns": "t"}}},
            "run option 'config': LangGraph keeps 'checkpoint_ns' of 'configurable' for itself; leave it out",
        ),
        (
            {"config": {"configurable": {"__pregel_send": 1}}},
            "run option 'config': LangGraph keeps '__pregel_send' of 'configurable' for itself; leave it out",
        ),
        ({"durability": "full"}, "run option 'durability': expected 'sync', 'async' or 'exit' (got 'full')"),
        (
            {"multitask": None},
            "run option 'multitask': expected 'enqueue', 'reject', 'interrupt' or 'rollback' (got 'null')",
        ),
        (
            {"interrupt_before": "write"},
            "run option 'interrupt_before': expected a list of names of nodes, or ['*'] for all (got 'write')",
        ),
        (
            {"interrupt_after": [1]},
            "run option 'interrupt_after': expected a list of names of nodes, or ['*'] for all (got '[1]')",
        ),
        (
            {"update": {"node": "write"}, "thread_id": "t"},
            "run option 'update': expected StateUpdate(...), or an object of its fields, besides a thread_id (got",
        ),
        ({"update": {}}, "run option 'update': name the thread by thread_id"),
        ({"on_change": "stop"}, "run option 'on_change': expected 'continue', 'restart' or 'fail' (got 'stop')"),
        (
            {"stream": ["tokens"]},
            "run option 'stream': expected a list of 'values', 'updates', 'messages', 'custom', 'tasks',"
            """ 'checkpoints', 'debug', 'events', 'tools' (got '["tokens"]')""",
        ),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_with_its_name_and_what_it_needs(
    fields: dict[str, Any], words: str
) -> None:
    for make in (lambda: RunOptions(**fields), lambda: a_task(run=fields)):
        with pytest.raises(BadTask) as refused:
            make()
        assert str(refused.value).startswith(words)


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(BadTask, match="task field 'run': expected RunOptions"):
        a_task(run="t1")


@pytest.mark.parametrize("thread_id", ["a", "x" * 200, "Ada: é 😀/@#", " "])
def test_a_thread_id_may_be_what_people_call_a_thread(thread_id: str) -> None:
    assert is_thread_id(thread_id)
    assert RunOptions(thread_id=thread_id).thread_id == thread_id


@pytest.mark.parametrize("thread_id", ["", "x" * 201, "a\n", "\x00", "a\x7f", "\x85", "\u2028", "{a}", "}", 5, None])
def test_a_thread_id_never_breaks_a_line_or_a_key(thread_id: object) -> None:
    assert not is_thread_id(thread_id)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (b'{"durability":"x"}', "task field 'run.durability': not one of the allowed values"),
        (b'{"context":[1]}', "run option 'context'"),
        (b'{"config":{"callbacks":1}}', "'callbacks' is not a client's to set"),
        (b'{"config":{"recursion_limit":1e999}}', "a field that was received cannot be read"),
        (b'{"thread_id":"{a}"}', "run option 'thread_id'"),
        (b'{"context":{"x":"%b"}}' % (b"x" * PAYLOAD_LIMIT_BYTES), "run option 'context' has 262152 bytes"),
        (b'{"interrupt_before":[%b]}' % b",".join([b'"x"'] * 65), "task field 'run.interrupt_before'"),
    ],
)
def test_what_another_program_says_about_a_run_is_checked_where_it_enters(run: bytes, words: str) -> None:
    def received() -> None:
        check_sizes(Task.from_json(Raw(b'{"task_id":"t","task_type":"sum","run":%b}' % run)))

    with pytest.raises(BadTask, match=words):
        received()
