"""What the pages show of tasks and agents does what they say."""

from __future__ import annotations

from typing import Any

import pytest

import worker.authoring.handlers
from core.tasks import TaskStatus
from tests.pages import sample_of
from worker.authoring.context import ChildOutcome, Context
from worker.authoring.registry import Handlers


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
