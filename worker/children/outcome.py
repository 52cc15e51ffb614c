"""What a handler raised or spawned, in the form in which it is recorded."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from core.errors import BadTask, TaskFailed
from core.tasks import Task, TaskError, Then
from worker.authoring.context import Spawn

__all__ = ["failure", "out_of_memory", "refuse_unrun", "spawn_json", "spawn_of"]

#: Limits of a class name, an error message and a traceback, in characters. A traceback loses its middle, since its ends
#: tell most.
NAME_LIMIT = 200
MESSAGE_LIMIT = 4_000
TRACEBACK_LIMIT = 16_000

#: Types of values that are code which has not run.
UNRUN = (GeneratorType, AsyncGeneratorType, CoroutineType)

OUR_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUR_FILES = frozenset(
    os.path.join(OUR_FOLDER, name)
    for name in (
        "children/main.py",
        "children/forkserver.py",
        "hosts/main.py",
        "hosts/run.py",
        "execution/attempts.py",
        "execution/loop_executor.py",
        "authoring/registry.py",
    )
)


def refuse_unrun(task_type: str, value: Any) -> None:
    """Raises BadTask, with the remedy, when a handler has returned code that has not run."""
    if not isinstance(value, UNRUN):
        return
    if isinstance(value, CoroutineType):
        value.close()  # otherwise Python warns about it as well
        raise BadTask(
            f"handler of {task_type!r} returned a coroutine, which has not run: await it in an async def, or make the"
            " handler one"
        )
    raise BadTask(
        f"handler of {task_type!r} returned a generator, which has not run: a task has one result, so return a list of"
        " what it yields, and report progress with ctx.progress"
    )


def spawn_json(spawn: Spawn) -> bytes:
    """The children and the continuation as JSON, in their present state: later changes to them have no effect."""
    children = b",".join(child.to_json() for child in spawn.children)
    return b'{"children":[%b],"then":%b}' % (children, msgspec.json.encode(spawn.then))


class _Told(Struct):
    children: tuple[Raw, ...]
    then: Then


def spawn_of(told: bytes) -> Spawn:
    """The spawn in the JSON of `spawn_json`. Raises BadTask when a child is malformed."""
    delegated = msgspec.json.decode(told, type=_Told)
    return Spawn(tuple(map(Task.from_json, delegated.children)), delegated.then)


def failure(error: BaseException, attempt: int) -> TaskError:
    """The entry in a task's record for `error`, which a handler raised. It never raises, whatever class that has.

    BadTask and TaskFailed are not retryable. Another attempt would have the same malformed payload or result, and the
    child, or other task, that failed has ended.
    """
    kind = type(error)  # isinstance would ask the instance
    return TaskError(
        type=_class_name(error)[:NAME_LIMIT],
        message=_told("message", lambda: str(error))[:MESSAGE_LIMIT],
        traceback="" if issubclass(kind, BadTask) else _shortened(_told("traceback", lambda: _traceback(error))),
        attempt=attempt,
        retryable=not issubclass(kind, BadTask | TaskFailed),
    )


def out_of_memory(problem: TaskError, limit_mb: int) -> TaskError:
    """The error of an attempt that reached its memory limit of `limit_mb`, made from `problem`."""
    cure = "give its @task or @agent memory_mb=..., or raise WORKER_CHILD_MEMORY_MB"
    message = f"it needed more than its {limit_mb} MiB ({problem.message or 'MemoryError'}): {cure}"
    return replace(problem, type="memory", message=message)


def _told(what: str, tell: Callable[[], str]) -> str:
    """The result of `tell`, which runs methods of the user's exception. Those may raise, or exit, themselves."""
    try:
        return _valid(tell())
    except BaseException as second:
        return f"its {what} cannot be shown: {_class_name(second)}"


def _class_name(error: BaseException) -> str:
    """The name of the error's class, even if a metaclass has a `__name__` of its own."""
    return _valid(type.__dict__["__name__"].__get__(type(error)))


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _from_user_code(error.__traceback__)))


def _from_user_code(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without our own frames at its top, which tell the user nothing."""
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename in OUR_FILES:
        frames = frames.tb_next
    return frames


def _valid(text: str) -> str:
    """A plain string that is valid in JSON, with lone surrogates escaped. `text` may be of a subclass."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _shortened(text: str) -> str:
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
