"""Who an agent is: a type, which says how it is built, and a key, which says which of that type it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self, TypedDict

__all__ = ["AgentId", "AgentMetadata", "AgentType"]

_TYPE = re.compile(r"[\w\-.]+")


class AgentMetadata(TypedDict):
    """What an agent says of itself."""

    type: str
    key: str
    description: str


@dataclass(frozen=True)
class AgentType:
    """A type of agents. One builder builds all of them."""

    type: str


@dataclass(frozen=True, init=False)
class AgentId:
    """The address of an agent. Its text is `type/key`; the key may hold further slashes.

    Raises ValueError for a type that is not made of letters, digits, `_`, `-` and `.`."""

    type: str
    key: str

    def __init__(self, type: str | AgentType, key: str) -> None:
        name = type.type if isinstance(type, AgentType) else type
        if not _TYPE.fullmatch(name):
            raise ValueError(f"{name!r} is no type of agents. Use letters, digits, '_', '-' and '.'.")
        object.__setattr__(self, "type", name)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "_hash", hash((name, key)))  # it is looked up with every message

    def __hash__(self) -> int:
        return self.__dict__["_hash"]  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.type, self.key)  # texts have other hashes in another process

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"

    @classmethod
    def from_str(cls, agent_id: str) -> Self:
        """The id with this text. Raises ValueError for text without a slash."""
        name, slash, key = agent_id.partition("/")
        if not slash:
            raise ValueError(f"{agent_id!r} is no id of an agent. Write it as type/key.")
        return cls(name, key)
