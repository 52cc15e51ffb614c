"""Agents whose methods are handlers, each for messages of the types that its annotation names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from core.engine.agent import BaseAgent, HandledType
from core.engine.contexts import MessageContext
from core.engine.exceptions import CantHandleException
from core.engine.serialization import try_get_known_serializers_for_type

__all__ = ["RoutedAgent", "event", "message_handler", "rpc"]

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
Match = Callable[[Any, MessageContext], bool]

_ROUTE = "__route__"


class _Takes(Enum):
    """Which messages a handler is for."""

    ALL = "all"
    EVENTS = "events"  #: that were published
    REQUESTS = "requests"  #: whose sender waits for a response

    def takes(self, ctx: MessageContext) -> bool:
        return self is _Takes.ALL or ctx.is_rpc is (self is _Takes.REQUESTS)


@dataclass(frozen=True)
class _Route:
    """When a handler is called, and what it may return."""

    handler: Callable[..., Coroutine[Any, Any, Any]]
    messages: tuple[Any, ...]
    returns: tuple[Any, ...]
    takes: _Takes
    match: Match | None
    strict: bool

    def leads_here(self, message: Any, ctx: MessageContext) -> bool:
        return self.takes.takes(ctx) and (self.match is None or self.match(message, ctx))

    def check(self, returned: Any) -> None:
        """Raises ValueError, or if not strict warns, when the handler has returned what it does not say it does."""
        if Any in self.returns or type(returned) in self.returns:
            return
        named = " or ".join(getattr(one, "__name__", str(one)) for one in self.returns)
        text = f"{self.handler.__qualname__} says that it returns {named}, and has returned {type(returned).__name__}"
        if self.strict:
            raise ValueError(text)
        log.warning(text, extra={"action": "unexpected_response"})


@overload
def message_handler(func: F) -> F: ...


@overload
def message_handler(*, strict: bool = ..., match: Match | None = ...) -> Callable[[F], F]: ...


def message_handler(func: F | None = None, *, strict: bool = True, match: Match | None = None) -> F | Callable[[F], F]:
    """Makes a coroutine method a handler of messages, sent or published, of the type that `message` is annotated with.

    What it returns is the response; its annotation names the type of that. Both may be unions. Of several handlers of
    one type the first in alphabetical order is called whose `match(message, ctx)` says so. `strict=False`: a response
    of another type is logged, and not an error."""
    return _decorated(func, _Takes.ALL, strict, match)


@overload
def event(func: F) -> F: ...


@overload
def event(*, strict: bool = ..., match: Match | None = ...) -> Callable[[F], F]: ...


def event(func: F | None = None, *, strict: bool = True, match: Match | None = None) -> F | Callable[[F], F]:
    """As `message_handler`, for what is published alone. It returns None."""
    return _decorated(func, _Takes.EVENTS, strict, match)


@overload
def rpc(func: F) -> F: ...


@overload
def rpc(*, strict: bool = ..., match: Match | None = ...) -> Callable[[F], F]: ...


def rpc(func: F | None = None, *, strict: bool = True, match: Match | None = None) -> F | Callable[[F], F]:
    """As `message_handler`, for requests alone."""
    return _decorated(func, _Takes.REQUESTS, strict, match)


def _decorated(func: F | None, takes: _Takes, strict: bool, match: Match | None) -> F | Callable[[F], F]:
    def decorate(handler: F) -> F:
        hints = get_type_hints(handler)
        for name in ("message", "return"):
            if name not in hints:
                raise TypeError(
                    f"{handler.__qualname__} has no annotation for {name!r}. A handler is written as"
                    " async def name(self, message: SomeType, ctx: MessageContext) -> SomeType or None."
                )
        returns = (NoneType,) if takes is _Takes.EVENTS else _types(hints["return"])
        setattr(handler, _ROUTE, _Route(handler, _types(hints["message"]), returns, takes, match, strict))
        return handler

    return decorate if func is None else decorate(func)


def _types(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation names."""
    if get_origin(annotation) in {Union, UnionType}:
        return tuple(one for part in get_args(annotation) for one in _types(part))
    return (get_origin(annotation) or annotation,)


class RoutedAgent(BaseAgent):
    """An agent whose handlers are its methods that are decorated with `message_handler`, `event` or `rpc`."""

    _routes: ClassVar[dict[Any, tuple[_Route, ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        routes: dict[Any, tuple[_Route, ...]] = {}
        for name in dir(cls):
            route: _Route | None = getattr(getattr(cls, name, None), _ROUTE, None)
            if route is None:
                continue
            for kind in route.messages:
                routes[kind] = (*routes.get(kind, ()), route)
        cls._routes = routes

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        """Calls the handler that the message leads to. A subclass adds handlers, and leaves this alone."""
        routes = self._routes
        for route in routes.get(type(message)) or routes.get(Any, ()):
            if route.leads_here(message, ctx):
                returned = await route.handler(self, message, ctx)
                route.check(returned)
                return returned
        return await self.on_unhandled_message(message, ctx)

    async def on_unhandled_message(self, message: Any, ctx: MessageContext) -> Any:
        """Is called with what no handler is for. Passes over what was published; raises CantHandleException for a
        request."""
        if ctx.is_rpc:
            raise CantHandleException(
                f"{type(self).__name__} has no handler for requests of type {type(message).__name__}. Decorate a method"
                " with @message_handler or @rpc whose `message` is annotated with that type."
            )
        log.debug("%s has no handler for %s", self.id, type(message).__name__, extra={"action": "message_unhandled"})

    @classmethod
    def _handles_types(cls) -> list[HandledType]:
        own = super()._handles_types()
        named = {kind for kind, _ in own}
        known = ((kind, try_get_known_serializers_for_type(kind)) for kind in cls._routes if kind not in named)
        return own + [(kind, serializers) for kind, serializers in known if serializers]
