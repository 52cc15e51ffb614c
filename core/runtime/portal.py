"""One implementation, called from programs with and without an event loop.

An operation is written once, as a coroutine function. Called where no event loop runs, it is run to its end on a
background loop and its value is returned. Called inside a running loop, the same call is awaited:

    agent.initialize()                # in a script
    await agent.initialize()          # in a coroutine; for a type checker: await agent.initialize.aio()
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from core.runtime.own_loop import outlast

__all__ = ["BoundOperation", "Operation", "Resident", "operation", "portal_loop"]

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Resident")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def portal_loop() -> asyncio.AbstractEventLoop:
    """The background loop of this process; started on first use, ends with the process."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=outlast, args=(_loop, lambda: False), name="agent-system", daemon=True).start()
        return _loop


class Resident:
    """Something that lives on one event loop: the one on which it was first used."""

    _home: asyncio.AbstractEventLoop | None = None


class BoundOperation(Generic[P, T]):
    """A method of one object, to be called or awaited."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], owner: Resident) -> None:
        self._function = function
        self._owner = owner
        self.__doc__ = function.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The value; inside a running event loop an awaitable of it."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            home = self._owner._home or portal_loop()
            return asyncio.run_coroutine_threadsafe(self.aio(*args, **kwargs), home).result()
        return self.aio(*args, **kwargs)  # type: ignore[return-value]

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, for coroutines."""
        here = asyncio.get_running_loop()
        owner = self._owner
        if owner._home is None or owner._home.is_closed():
            owner._home = here
        if owner._home is here:
            return await self._function(owner, *args, **kwargs)
        there = asyncio.run_coroutine_threadsafe(self._function(owner, *args, **kwargs), owner._home)
        return await asyncio.wrap_future(there)


class Operation(Generic[P, T]):
    """Descriptor that makes a coroutine function a BoundOperation of its object."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Any]) -> Operation[P, T]: ...
    @overload
    def __get__(self, owner: Resident, kind: type[Any]) -> BoundOperation[P, T]: ...
    def __get__(self, owner: Resident | None, kind: type[Any]) -> Operation[P, T] | BoundOperation[P, T]:
        return self if owner is None else BoundOperation(self._function, owner)


def operation(function: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> Operation[P, T]:
    """Makes a coroutine method callable from scripts and coroutines alike."""
    return Operation(function)
