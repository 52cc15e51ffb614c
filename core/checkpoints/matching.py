"""Which items a filter means, and which namespaces a condition."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.store.base import MatchCondition

from core.errors import BadTask

__all__ = ["is_meant", "matches"]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def is_meant(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one: a mapping is compared by the keys that are wanted, or by the operators $eq,
    $ne, $gt, $gte, $lt and $lte, of which the last four compare numbers. Raises BadTask for another operator."""
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(is_meant(value.get(key), each) for key, each in wanted.items())
    if isinstance(wanted, list | tuple):
        same_length = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same_length and all(is_meant(one, other) for one, other in zip(value, wanted, strict=True))
    return bool(value == wanted)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name in ("$eq", "$ne"):
        return (value == operand) is (name == "$eq")
    if name not in _ORDERS:
        raise BadTask(f"a filter has the operator {name!r}; there are $eq, $ne and {', '.join(_ORDERS)}.")
    try:
        return _ORDERS[name](float(value), float(operand))
    except (TypeError, ValueError):  # it has no such value, or one that is no number
        return False


def matches(namespace: Sequence[str], condition: MatchCondition) -> bool:
    """Whether the namespace begins (`prefix`) or ends (`suffix`) as the condition says, where * is any label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
