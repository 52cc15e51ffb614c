"""What a tier is made of, for what runs its graph without its program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from core.config.settings import AgentConfig
from core.roles import Address
from core.runtime.behaviour import Behaviour
from core.step import Event, Request

__all__ = ["Tier"]


class Tier(NamedTuple):
    """The behaviour of a tier, and the types of what happens in the process of an agent."""

    behaviour: Callable[[tuple[Address, ...], AgentConfig], Behaviour[Any]]  #: of the last agent of that chain
    events: tuple[type[Event], ...]  #: all but `Call`
    requests: tuple[type[Request[Any]], ...]  #: what a `Call` can ask
