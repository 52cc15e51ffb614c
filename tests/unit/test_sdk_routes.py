"""Each route that LangGraph's SDK or server knows is there: it works, or says in 422 why not and what to do instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import langgraph_sdk
import pytest
from fastapi.testclient import TestClient

from core.gateway.app import gateway_app
from core.gateway.hierarchy import Hierarchy
from core.gateway.rbac import ROUTES
from core.gateway.unsupported import CURES

SDK = Path(langgraph_sdk.__file__).parent / "_async"
#: By the method of the SDK's HTTP client.
METHODS = {"get": "GET", "post": "POST", "put": "PUT", "patch": "PATCH", "delete": "DELETE"}


def asked_by_the_sdk() -> Iterator[str]:
    """Each request, `METHOD PATH`, that the SDK makes, as far as its source names both in one call."""
    for path in SDK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                for asked in paths_in(node.args[0]) if node.args else ():
                    yield f"{METHODS[node.func.attr]} {asked}"


def paths_in(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from (*paths_in(node.body), *paths_in(node.orelse))
        return
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)
    if text.startswith("/"):
        yield text


def test_each_route_of_the_sdk_is_in_the_table_of_routes() -> None:
    routes = [route for of_an_action in ROUTES.values() for route in of_an_action]
    known = [re.compile(re.sub(r"\{[^}]+\}", "[^/]+", route)) for route in routes]
    asked = {*asked_by_the_sdk()}
    assert len(asked) > 30
    assert [route for route in sorted(asked) if not any(pattern.fullmatch(route) for pattern in known)] == []


@pytest.fixture(scope="module")
def http() -> TestClient:
    """A gateway whose hierarchy nobody asks."""
    return TestClient(gateway_app(Hierarchy(None, None, "c1", "gateway")), base_url="http://localhost")


@pytest.mark.parametrize("known", CURES)
def test_what_is_not_supported_says_what_to_do_instead(http: TestClient, known: str) -> None:
    method, _, path = known.partition(" ")
    refused = http.request(method, path.replace("{", "").replace("}", ""), json={})
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"] == f"{known} is not supported; {CURES[known]}"
