"""JSON for readers, of whatever a graph may have in its state."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from core.json_values import as_json


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"text", "text"),
        (b"\xff\x00", "_wA="),
        (math.nan, None),
        ({1}, [1]),
        (1j, "1j"),
        ({2: b"\xff"}, {"2": "_w=="}),
    ],
)
def test_whatever_a_state_holds_is_told(value: Any, told: Any) -> None:
    assert orjson.loads(as_json({"value": value, "beside": 1})) == {"value": told, "beside": 1}


def test_what_is_nested_too_deeply_is_told_up_to_a_depth() -> None:
    assert as_json(nested(5000)).strip(b"[]") == b'"..."'
