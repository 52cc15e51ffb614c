"""What a handler's parameters ask for: the payload, the context, a validated model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from core.errors import BadTask
from worker.context import Context

CONTEXT_NAMES = frozenset({"ctx", "context"})


@dataclass(frozen=True, slots=True)
class Signature:
    wants_payload: bool
    wants_context: bool
    payload_model: TypeAdapter[Any] | None


def read_signature(task_type: str, function: Callable[..., Any], names: Mapping[str, Any]) -> Signature:
    """Which arguments ``function`` wants. ``names``: the variables around it, to resolve annotations in.

    Raises BadTask when it wants anything but ``(payload)``, ``(payload, ctx)``, ``(ctx)`` or nothing, or when the
    payload's annotation cannot be resolved: then nobody could tell whether it is a model to validate with.
    """
    wanted = [p for p in inspect.signature(function).parameters.values() if _wanted(p)]
    contexts = [p for p in wanted if _is_context(p)]
    payloads = [p for p in wanted if not _is_context(p)]
    positional = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in wanted)
    if len(contexts) > 1 or len(payloads) > 1 or not positional or wanted != payloads + contexts:
        raise BadTask(
            f"handler of {task_type!r} takes {inspect.signature(function)}; it must be (payload), (payload, ctx),"
            " (ctx) or (), where the context is called ctx or annotated Context"
        )
    model = _model(task_type, payloads[0], function, names) if payloads else None
    return Signature(bool(payloads), bool(contexts), model)


def _wanted(parameter: inspect.Parameter) -> bool:
    """Whether it is ours to fill: all but the parameters that have a default and are neither payload nor context."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return False
    return parameter.default is parameter.empty or parameter.name == "payload" or _is_context(parameter)


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotated = annotation.strip("'\"").rpartition(".")[2] == Context.__name__
    else:
        annotated = annotation is Context
    return annotated or parameter.name in CONTEXT_NAMES


def _model(
    task_type: str, parameter: inspect.Parameter, function: Callable[..., Any], names: Mapping[str, Any]
) -> TypeAdapter[Any] | None:
    annotation = parameter.annotation
    while isinstance(annotation, str):  # twice, for one quoted where annotations are strings anyway
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = eval(annotation, dict(scope), dict(names))  # the user's own source, as typing does
        except NameError as error:
            raise BadTask(
                f"handler of {task_type!r}: the annotation {parameter.annotation!r} of {parameter.name!r} cannot be"
                f" resolved ({error}). Import it at the top of the module, not under TYPE_CHECKING."
            ) from None
    return TypeAdapter(annotation) if _mentions_model(annotation) else None


def _mentions_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_mentions_model(argument) for argument in get_args(annotation))
