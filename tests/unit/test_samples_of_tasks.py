"""What the pages show of tasks and agents does what they say."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import worker.authoring.handlers
from core.tasks import TaskStatus
from tests.pages import sample_of
from worker.authoring.context import ChildOutcome, Context
from worker.authoring.registry import Handlers
from worker.authoring.suspension import Interrupted, suspension_of


@pytest.fixture(autouse=True)
def _handlers_of_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have handlers of the same names."""
    monkeypatch.setattr(worker.authoring.handlers, "HANDLERS", Handlers())


def names_of(page: str, heading: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": __name__}
    exec(sample_of(page, heading), names)
    return names


def test_the_five_lines_of_the_readme_count_words() -> None:
    word_count = names_of("README.md", "Your own task, in five lines")["word_count"]
    assert word_count({"text": "to be or not"}) == {"words": 4}


def test_the_fifteen_lines_of_the_readme_write_a_draft() -> None:
    graph = names_of("README.md", "Your own LangGraph agent, in fifteen")["writer"]().compile()
    assert graph.invoke({"topic": "Ants", "text": ""}) == {"topic": "Ants", "text": "# Ants\n..."}


async def test_the_task_that_delegates_gets_its_words_back_from_its_children() -> None:
    names = names_of("docs/tasks.md", "A task")
    spawned = names["split"](names["Text"](text="to be or not to be"), Context("job"))
    assert spawned.then.task_type == "join"
    outcomes = [
        ChildOutcome(child.task_id, child.task_type, TaskStatus.COMPLETED, await names["shout"](child.payload))
        for child in spawned.children
    ]
    assert [outcome.result for outcome in outcomes] == ["TO BE OR", "NOT TO BE"]
    assert names["join"](Context("job", children=outcomes)) == "TO BE OR NOT TO BE"


def test_the_letter_of_the_page_on_agents_asks_who_signs_it_and_whether_it_is_urgent() -> None:
    graph = names_of("docs/agents.md", "Questions")["letter"]().compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}

    first = graph.invoke({"text": "Dear all"}, config)["__interrupt__"]
    second = graph.invoke(Command(resume="Ada"), config)["__interrupt__"]

    assert first[0].value == {"letter": "Dear all", "question": "Who signs this?"}
    [wait] = suspension_of([Interrupted(second[0].id, "rank", second[0].value)], Context("t")).waits
    assert (wait.asks, wait.expires_s) == ("Is it urgent?", 3600)


async def test_the_report_of_the_page_on_agents_delegates_a_task_for_each_topic() -> None:
    graph = names_of("docs/agents.md", "Delegation")["report"]().compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}

    [interrupt] = (await graph.ainvoke({"topics": ["bees", "ants"]}, config))["__interrupt__"]

    children = suspension_of([Interrupted(interrupt.id, "research", interrupt.value)], Context("t")).children
    assert [(child.task_id, child.payload["topic"]) for child in children] == [("t/0", "bees"), ("t/1", "ants")]
