"""Answers as JSON, of whatever a graph may have in its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Response

from core.json_values import as_json

__all__ = ["json_answer", "selected"]


def json_answer(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(as_json(value), headers=dict(headers or {}), media_type="application/json")


def selected(told: Mapping[str, Any], fields: Iterable[str] | None) -> dict[str, Any]:
    """These fields of what is told (None: all); `values.x` is the field x of the values."""
    if not fields:
        return dict(told)
    chosen: dict[str, Any] = {}
    for field in fields:
        name, _, part = field.partition(".")
        whole = told.get(name)
        if part and isinstance(whole, dict):
            chosen[name] = {**chosen.get(name, {}), **({part: whole[part]} if part in whole else {})}
        elif name in told:
            chosen[name] = whole
    return chosen
