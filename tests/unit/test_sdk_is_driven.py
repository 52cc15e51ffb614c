"""No method of LangGraph's SDK is left out by the tests that drive it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.client import AssistantsClient, CronClient, RunsClient, StoreClient, ThreadsClient

from core.gateway.crons import CronBody, CronChanges
from core.gateway.run_requests import CURES, Body, RunBody

CLIENTS = {"assistants": AssistantsClient, "threads": ThreadsClient, "runs": RunsClient, "store": StoreClient}
TESTS = Path(__file__).parent.parent / "integration"


def called(part: str) -> set[str]:
    """The methods of a part of the SDK that a test calls, as `sdk.PART.METHOD`."""
    return {
        node.attr
        for path in TESTS.glob("test_gateway*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == part
    }


@pytest.mark.parametrize("part", CLIENTS)
def test_each_method_is_driven(part: str) -> None:
    public = {name for name in vars(CLIENTS[part]) if not name.startswith("_")}
    assert len(public) > 4
    assert public - called(part) == set()


#: What the SDK names otherwise than the field in which it sends it.
SENT_AS = {"langsmith_tracing": "langsmith_tracer"}
#: What it does not send in the body: the path, the headers and query, and what it does with the answer.
NOT_SENT = {"self", "thread_id", "cron_id", "headers", "params", "on_run_created", "raise_error", "version"}
DOC = Path(__file__).parent.parent.parent / "docs" / "gateway.md"


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (RunsClient.create, RunBody),
        (RunsClient.wait, RunBody),
        (RunsClient.stream, RunBody),
        (CronClient.create, CronBody),
        (CronClient.create_for_thread, CronBody),
        (CronClient.update, CronChanges),
    ],
)
def test_each_parameter_of_a_run_is_taken_and_told_of(method: Callable[..., Any], body: type[Body]) -> None:
    named = set(inspect.signature(method).parameters) - NOT_SENT
    assert len(named) > 10
    assert {SENT_AS.get(name, name) for name in named} - set(body.model_fields) == set()
    told = DOC.read_text()
    if body is RunBody:
        assert [name for name in named if f"`{name}`" not in told] == []
    assert [name for name in CURES if f"`{name}`" not in told] == []
