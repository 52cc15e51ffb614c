"""`agents threads` on a server: what LangGraph remembers, as people see it and change it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph
from typer.testing import CliRunner

from core.checkpoints import RedisSaver
from core.cli.app import app
from core.errors import BadTask

if TYPE_CHECKING:
    from core.config.settings import RedisConfig
    from tests.redis_server import RedisServer


class Odd:
    def model_dump(self) -> dict[str, int]:
        return {"odd": 1}


class State(TypedDict, total=False):
    step: int
    said: AIMessage
    odd: Any


@pytest.fixture(autouse=True)
def _here(redis_server: RedisServer, redis_config: RedisConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread `one` of two steps, in the server that the command finds."""
    for name, value in redis_server.environment.items():
        monkeypatch.setenv(name, value)
    with RedisSaver(redis_config) as saver:
        builder = StateGraph(State).add_node("first", lambda _: {"step": 1})
        builder.add_node("second", lambda _: {"step": 2, "said": AIMessage("hello"), "odd": Odd()})
        graph = builder.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)
        graph.invoke({"step": 0}, {"configurable": {"thread_id": "one"}})


def agents(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["threads", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_threads_are_listed_shown_and_told_from_the_newest_state_back() -> None:
    assert agents("list") == "one\n"
    shown = json.loads(agents("show", "one", "--json"))
    steps = [each["values"].get("step") for each in json.loads(agents("history", "one", "--json"))]

    assert shown["values"]["step"] == 2
    assert shown["values"]["said"]["content"] == "hello"
    assert shown["values"]["odd"] == {"odd": 1}  # no object is made to show it
    assert steps == [2, 1, 0, None]
    assert "hello" in agents("show", "one")
    assert shown["checkpoint_id"] in agents("history", "one", "--wide")


def test_a_fork_goes_on_from_a_checkpoint_and_a_copy_from_the_end() -> None:
    after_first = json.loads(agents("history", "one", "--json"))[1]["checkpoint_id"]

    agents("fork", "one", after_first, "two")
    agents("copy", "one", "three")

    assert [json.loads(agents("show", name, "--json"))["values"]["step"] for name in ("two", "three")] == [1, 2]
    assert agents("list").split() == ["one", "three", "two"]
    assert json.loads(agents("show", "one", "--checkpoint", after_first, "--json"))["values"]["step"] == 1


def test_a_deleted_thread_is_gone() -> None:
    agents("delete", "one", "--yes")
    assert agents("list").strip() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "none"), "no thread 'none'"),
        (("copy", "none", "two"), "no thread 'none'"),
        (("fork", "one", "0", "two"), "no thread 'one' at '0'"),
        (("copy", "one", "one"), "already a thread 'one'"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadTask, match=said):
        agents(*arguments)
    assert agents("list") == "one\n"
