"""A LangGraph project that knows nothing of us runs through the whole hierarchy, as its `langgraph.json` says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import Installation
from tests.waiting import until

PROJECT = Path(__file__).parents[2] / "examples/langgraph_project"


@pytest.fixture
def here() -> Iterator[Installation]:
    with Installation.opened() as installation:
        yield installation


def test_a_project_runs_as_it_is(here: Installation) -> None:
    up = here.agents("up", "--workers", "1", "--langgraph", str(PROJECT), "--detach")
    assert up.returncode == 0, up.stderr

    def result(task_type: str, payload: Any) -> Any:
        ended = here.agents("submit", task_type, json.dumps(payload), "--wait")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    asked = {"messages": [{"role": "user", "content": "Count the words of this"}]}
    messages = result("word-agent", asked)["messages"]
    assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1]["content"] == "I have found this: 5 words"
    assert result("haiku", {"topic": "rain"})["lines"] == ["rain, line 1", "rain, line 2", "rain, line 3"]
    assert result("summary", ["It rains. A lot.", "It is wet."]) == "It rains; It is wet"

    for text in "Remember: I like tea", "Remember: the cat is grey":
        told = {"messages": [{"role": "user", "content": text}]}
        assert result("memory", told)["messages"][-1]["content"] == "I have found this: remembered"
    asked = {"messages": [{"role": "user", "content": "Recall the tea"}]}  # in another thread
    assert result("memory", asked)["messages"][-1]["content"] == "I have found this: Remember: I like tea"

    task_id = here.agents("submit", "letter", '{"to": "Ada"}').stdout.strip()
    until(lambda: here.json("questions", "list"), "it stops before it sends")
    [question] = here.json("questions", "list")
    assert (question["task_id"], question["interrupt_id"]) == (task_id, "breakpoint:send")
    assert here.agents("questions", "answer", task_id, "true").returncode == 0
    waited = here.agents("tasks", "wait", task_id, "--timeout", "60")
    assert json.loads(waited.stdout) == {"to": "Ada", "text": "Dear Ada, it rains.", "sent": True}
