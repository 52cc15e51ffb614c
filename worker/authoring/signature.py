"""What the parameters of a handler ask for: the payload, the context, a validated model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

from core.errors import BadTask
from worker.authoring.context import Context

CONTEXT_NAMES = frozenset({"ctx", "context"})
#: Names of the first parameters of methods.
OBJECT_NAMES = frozenset({"self", "cls"})
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Signature:
    wants_payload: bool
    wants_context: bool
    payload_model: TypeAdapter[Any] | None
    payload_default: Any = inspect.Parameter.empty


def read_signature(task_type: str, function: Callable[..., Any], names: Mapping[str, Any]) -> Signature:
    """The arguments that `function` wants. `names`: the variables around it, in which annotations are resolved.

    A parameter that has a default and is neither payload nor context is not filled. Raises BadTask, with the reason:
    when the function wants anything but `(payload)`, `(payload, ctx)`, `(ctx)` or nothing; when it is unclear which
    parameter is the payload; or when the payload's annotation cannot be resolved, so that it is unclear whether it is a
    model.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
        payload, context = _filled(parameters)
        _check_call(function, [parameter for parameter in (payload, context) if parameter])
    except (TypeError, ValueError) as error:
        raise BadTask(
            f"handler of {task_type!r}: {error}. It must be (payload), (payload, ctx), (ctx) or (), where the context"
            " is called ctx or annotated Context"
        ) from None
    model = _model(task_type, payload, function, names) if payload else None
    default = payload.default if payload else inspect.Parameter.empty
    return Signature(payload is not None, context is not None, model, default)


def _filled(parameters: Sequence[inspect.Parameter]) -> tuple[inspect.Parameter | None, inspect.Parameter | None]:
    """The parameters for payload and context. Raises ValueError, with the reason, if they are unclear."""
    if parameters and parameters[0].name in OBJECT_NAMES:
        raise ValueError(f"there is no object to call it on as {parameters[0].name!r}; make it a function")
    contexts = [p for p in parameters if _is_context(p)]
    others = [p for p in parameters if p not in contexts and (p.kind in POSITIONAL or p.name == "payload")]
    payloads = (
        [p for p in parameters if p not in contexts and not _may_be_left_out(p)]
        or [p for p in others if p.name == "payload"]
        or others
    )
    for role, found in (("payload", payloads), ("context", contexts)):
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ValueError(f"it takes {names}, and only one of them can be the {role}; others get a default behind *")
    rest = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if rest and not payloads:
        raise ValueError(f"{rest[0]} names no payload; if it is a decorator's, that needs functools.wraps")
    if [p for p in parameters if p.kind in POSITIONAL][: len(payloads + contexts)] != payloads + contexts:
        raise ValueError("payload and context come before others, in this order, and by position")
    return next(iter(payloads), None), next(iter(contexts), None)


def _may_be_left_out(parameter: inspect.Parameter) -> bool:
    rest = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is not parameter.empty or parameter.kind in rest


def _check_call(function: Callable[..., Any], filled: Sequence[inspect.Parameter]) -> None:
    """Raises ValueError when the function cannot be called by its signature, which is that of a function it wraps."""
    try:
        inspect.signature(function, follow_wrapped=False).bind(*filled)
    except TypeError as error:
        raise ValueError(f"it looks like what it wraps, but cannot be called like that ({error})") from None


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
    while isinstance(annotation, str):  # twice, if it is quoted where annotations are strings anyway
        scope = _globals(inspect.unwrap(function))
        try:
            annotation = eval(annotation, dict(scope), dict(names))  # the user's own source, as typing does
        except NameError as error:
            raise BadTask(
                f"handler of {task_type!r}: the annotation {parameter.annotation!r} of {parameter.name!r} cannot be"
                f" resolved ({error}). Import it at the top of the module, not under TYPE_CHECKING."
            ) from None
    return TypeAdapter(annotation) if _mentions_model(annotation) else None


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    """The global names of the module that contains the function's code."""
    while isinstance(function, functools.partial):
        function = function.func
    code = function if hasattr(function, "__globals__") else type(function).__call__  # an object that is called
    return getattr(code, "__globals__", {})


def _mentions_model(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_mentions_model(argument) for argument in get_args(annotation))
