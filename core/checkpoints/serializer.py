"""LangGraph's serializer, which makes only objects of types that are allowed."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from core.errors import CheckpointUnreadable

__all__ = ["StrictSerializer", "strict_serializer"]

#: Types that were met while a value was read, and are not allowed.
_blocked: ContextVar[list[str] | None] = ContextVar("blocked types", default=None)


def _on_event(event: SerdeEvent) -> None:
    found = _blocked.get()
    if found is not None and event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        found.append(f"({event['module']!r}, {event['name']!r})")


register_serde_event_listener(_on_event)


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's own types, messages, and those of the standard library that hold data are allowed; others by name.

    JsonPlusSerializer gives the fields of an object of another type in its place; this raises CheckpointUnreadable, so
    that no node ever meets a dict where it has left an object."""

    def __init__(self, allowed_types: Iterable[type | tuple[str, str]] = ()) -> None:
        """`allowed_types`: classes, or pairs of module and name."""
        super().__init__(allowed_msgpack_modules=tuple(allowed_types) or None)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        blocked: list[str] = []
        before = _blocked.set(blocked)
        try:
            value = super().loads_typed(data)
        finally:
            _blocked.reset(before)
        if blocked:
            raise CheckpointUnreadable(
                f"a stored value has an object of a type that is not allowed: {blocked[0]}. Only its owner can tell"
                f" whether it is safe to make one from stored data: if it is, pass allowed_types=[{blocked[0]}]."
            )
        return value


@cache
def strict_serializer(allowed_types: tuple[type | tuple[str, str], ...]) -> StrictSerializer:
    """A serializer, the same for all that allow the same: it keeps nothing of what it has written."""
    return StrictSerializer(allowed_types)
