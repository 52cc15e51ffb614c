"""No method of LangGraph's SDK is left out by the tests that drive it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from langgraph_sdk.client import AssistantsClient, RunsClient, StoreClient, ThreadsClient

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
