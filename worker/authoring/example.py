"""Makes an example payload for a handler from the model that validates it, which a newcomer can submit first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from core.errors import BadTask
from core.status_reports import EXAMPLE_LENGTH
from worker.authoring.registry import Handler

__all__ = ["example_of", "first_example"]

Schema = dict[str, Any]

_TEXTS = {
    "date": "2030-01-01", "date-time": "2030-01-01T12:00:00Z", "duration": "PT1M", "email": "name@example.org",
    "time": "12:00:00Z", "uri": "https://example.org/", "uuid": "12345678-1234-4234-8234-123456789012",
}  # fmt: skip


def first_example(handlers: Iterable[Handler]) -> str:
    """An example task, as JSON: `[TYPE, PAYLOAD]`. Its type is the first, by name, of the users' types whose payload is
    known; empty if there is none."""
    for handler in sorted(handlers, key=lambda handler: handler.task_type):
        if handler.task_type.startswith("agents."):
            continue
        with suppress(LookupError):
            example = json.dumps([handler.task_type, example_of(handler)], ensure_ascii=False)
            if len(example) <= EXAMPLE_LENGTH:
                return example
    return ""


def example_of(handler: Handler) -> Any:
    """A payload that the handler accepts. Raises LookupError: its payload has no model, or no valid value was found."""
    if not handler.wants_payload:
        return None
    if handler.payload_model is None:
        raise LookupError(f"{handler.task_type} does not say what it takes")
    try:
        example = _example(handler.payload_model)
        handler.arguments(example, None)
    except (BadTask, PydanticUserError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise LookupError(f"no payload was found for {handler.task_type}") from error
    return example


def _example(model: TypeAdapter[Any]) -> Any:
    schema = model.json_schema()
    return _value(schema, schema.get("$defs", {}))


def _value(schema: Schema, known: dict[str, Schema]) -> Any:
    """A small value that the schema allows."""
    if "$ref" in schema:
        return _value(known[schema["$ref"].rpartition("/")[2]], known)
    if "default" in schema or "const" in schema:
        return schema.get("default", schema.get("const"))
    for choice in ("examples", "enum"):
        if choice in schema:
            return schema[choice][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _value(schema[choice][0], known)
    return _of_type(schema, known)


def _of_type(schema: Schema, known: dict[str, Schema]) -> Any:
    match schema.get("type"):
        case "object":
            return {name: _value(schema["properties"][name], known) for name in schema.get("required", ())}
        case "array":
            several = schema.get("prefixItems", [schema.get("items", {})] * schema.get("minItems", 0))
            return [_value(item, known) for item in several]
        case "string":
            text = _TEXTS.get(schema.get("format", ""), "text").ljust(schema.get("minLength", 0), ".")
            return text[: schema.get("maxLength")]
        case "integer" | "number":
            return max(1, schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return True
    return None
