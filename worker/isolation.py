"""Runs a coroutine of the user inside one of ours as if it were a task of its own, at a tenth of the price."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context as Variables
from typing import Any

__all__ = ["isolated"]


@types.coroutine
def isolated(
    coroutine: Coroutine[Any, Any, Any], variables: Variables, on_wait: Callable[[Any], None], argument: Any
) -> Generator[Any, Any, Any]:
    """What ``coroutine`` returns. It runs in ``variables``, so the context variables it sets end with it.

    ``on_wait(argument)`` is called once, when it has to wait for the first time; most short ones never do.
    """
    run = variables.run
    try:
        waits_for = run(coroutine.send, None)
    except StopIteration as done:
        return done.value
    on_wait(argument)
    while True:
        try:
            yield waits_for
        except GeneratorExit:
            run(coroutine.close)
            raise
        except BaseException as thrown:
            step, value = coroutine.throw, thrown
        else:
            step, value = coroutine.send, None  # type: ignore[assignment]
        try:
            waits_for = run(step, value)
        except StopIteration as done:
            return done.value
