"""One implementation, called from programs with and without an event loop.

An operation is written once, as a coroutine function. When no event loop runs in the caller, it runs to its end on a
background loop, and its value is returned. Inside a running loop, the same call is awaited:

    agent.initialize()                # in a script
    await agent.initialize.aio()      # in a coroutine; `await agent.initialize()` also works, without a type checker
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from core.errors import AgentSystemError, EventLoopError
from core.memory_backend.clock import VirtualLoop
from core.runtime.own_loop import outlast

__all__ = ["BoundOperation", "Operation", "Resident", "keep_inherited", "operation", "portal_loop", "refuse_in_a_loop"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Resident")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_inherited: list[object] = []


def portal_loop() -> asyncio.AbstractEventLoop:
    """The background loop of this process. It starts on first use and ends with the process."""
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=outlast, args=(_loop, lambda: False), name="agent-system", daemon=True)
            _thread.start()
        return _loop


def _begin_in_child() -> None:
    """A fork copies the loop, but not the thread that it runs in."""
    global _lock, _loop, _thread
    keep_inherited(_loop)
    _lock, _loop, _thread = threading.Lock(), None, None


def keep_inherited(*parts: object) -> None:
    """Keeps what a fork has copied of a loop, its tasks and its connections from being touched or collected. They share
    the parent's selector, and closing one would remove the parent's from it."""
    _inherited.extend(parts)


os.register_at_fork(after_in_child=_begin_in_child)


def _in_a_loop() -> bool:
    """Whether the caller runs in an event loop, and therefore has to await."""
    loop = asyncio._get_running_loop()
    # With threads patched by gevent, the background loop runs in the thread of its callers.
    return loop is not None and (loop is not _loop or threading.current_thread() is _thread)


def refuse_in_a_loop(cure: str) -> None:
    """Raises EventLoopError if the following call would block a running event loop."""
    if _in_a_loop():
        raise EventLoopError(f"this would block the event loop that runs here (of a coroutine, or a notebook): {cure}")


class Resident:
    """An object that lives on one event loop of one process: the one of its first use, or first use after that
    ended."""

    _owner_loop: asyncio.AbstractEventLoop | None = None
    _process = 0  #: the process that it lives in; 0: none yet

    def _living_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it lives on, if that still exists."""
        forked = self._process not in (0, os.getpid())
        if forked or (self._owner_loop is not None and self._owner_loop.is_closed()):
            self._leave_loop(forked=forked)
            self._owner_loop, self._process = None, os.getpid()
        return self._owner_loop

    def _leave_loop(self, *, forked: bool) -> None:
        """Forgets everything tied to its loop, which has ended or (`forked`) is the parent's. Raises EventLoopError if
        the object cannot move."""


class BoundOperation(Generic[P, T]):
    """A method of one object, which can be called or awaited."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], owner: Resident) -> None:
        self._function = function
        self._owner = owner
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._function)
        return signature.replace(parameters=[*signature.parameters.values()][1:])

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The value, or inside a running event loop an awaitable of it."""
        if _in_a_loop():
            return self.aio(*args, **kwargs)  # type: ignore[return-value]
        loop = self._owner._living_loop() or portal_loop()
        if isinstance(loop, VirtualLoop):  # time passes on it while somebody waits
            return loop.run_until_complete(self.aio(*args, **kwargs))
        _check_that_it_runs(loop, self._owner)
        try:
            return asyncio.run_coroutine_threadsafe(self.aio(*args, **kwargs), loop).result()
        except AgentSystemError as error:  # its message says everything; frames in between, and causes, do not help
            raise error.with_traceback(None) from None

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, for coroutines."""
        here = asyncio.get_running_loop()
        owner = self._owner
        loop = owner._living_loop()
        if loop is None:
            loop = owner._owner_loop = here
            owner._process = os.getpid()
        if loop is here:
            return await self._function(owner, *args, **kwargs)
        _check_that_it_runs(loop, owner)
        there = asyncio.run_coroutine_threadsafe(self._function(owner, *args, **kwargs), loop)
        return await asyncio.wrap_future(there)


def _check_that_it_runs(loop: asyncio.AbstractEventLoop, owner: Resident) -> None:
    if loop is not _loop and not loop.is_running():
        kind = type(owner).__name__
        raise EventLoopError(
            f"this {kind} belongs to another event loop, which does not run now: close it there when that loop is done"
            f" with it, or make a {kind} for each loop."
        )


class Operation(Generic[P, T]):
    """Descriptor that makes a coroutine function a BoundOperation of its object."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._function = function

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, owner: Resident, kind: type[Any]) -> BoundOperation[P, T]: ...
    def __get__(
        self, owner: Resident | None, kind: type[Any]
    ) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]] | BoundOperation[P, T]:
        return self._function if owner is None else BoundOperation(self._function, owner)


def operation(function: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> Operation[P, T]:
    """Makes a coroutine method callable from scripts and coroutines alike."""
    return Operation(function)
