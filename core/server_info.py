"""What a server says about itself, and why it refuses to write, read from its own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.ports import Command

__all__ = [
    "Memory", "explained", "fields_of", "is_elsewhere", "is_other_type", "memory_of", "of_another_type", "passes_soon",
    "why_refused",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """How full a server is, in bytes."""

    used: int = 0
    limit: int = 0  #: its maxmemory; 0: it has none

    @property
    def share(self) -> float:
        """The used share of the limit; 0.0 without a limit."""
        return self.used / self.limit if self.limit else 0.0


def fields_of(info: bytes) -> dict[str, str]:
    """The fields of a reply to INFO."""
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def memory_of(info: Mapping[str, str]) -> Memory:
    """How full the server is, counted as the server does when it decides whether to refuse a write."""
    uncounted = int(info.get("mem_not_counted_for_evict", 0))
    return Memory(max(0, int(info.get("used_memory", 0)) - uncounted), int(info.get("maxmemory", 0)))


_REFUSALS = {
    "OOM": "it has no memory left. Raise its maxmemory, or wait until there is room again",
    "READONLY": "it is a replica, which only reads. Set REDIS_URL to the primary",
    "MISCONF": "it cannot write to its disk, and accepts nothing until it can. Free space there, or see its log",
    "NOREPLICAS": "it has fewer replicas than its min-replicas-to-write asks for. Bring them back",
    "CROSSSLOT": "it is in cluster mode, which is not supported. Set REDIS_URL to one that is not",
    "MOVED": "it is in cluster mode, which is not supported. Set REDIS_URL to one that is not",
    "NOPERM": "its user may not do this. See ACL SETUSER, or set REDIS_USERNAME to another one",
}

_PASSING = {"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"}


def passes_soon(text: str) -> bool:
    """Whether an error reply says that the server cannot do this yet, or not at the moment."""
    return text.partition(" ")[0] in _PASSING


def is_elsewhere(text: str) -> bool:
    """Whether an error reply says that this server was demoted, so that writes belong to another."""
    return text.startswith("READONLY")


def is_other_type(text: str) -> bool:
    """Whether an error reply says that the key has a type that the command does not accept."""
    return text.startswith("WRONGTYPE")


def of_another_type(key: str) -> str:
    """What `is_other_type` means for a key of ours, with the cure."""
    return (
        f"{key!r} is of a type that none of our agents gives it: another application uses that name, or somebody has"
        " written there. RENAME or DEL it, or set REDIS_DB to a database that nobody else uses"
    )


def explained(command: Command, refusal: str) -> str:
    """The meaning of an error reply to a command of ours, with the key that it is about."""
    name, key = (part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in command[:2])
    return of_another_type(key) if is_other_type(refusal) else f"{name} of {key!r}: {refusal}"


def why_refused(text: str) -> str:
    """Why a server refused a command, with the cure if it refuses every write at the moment, or else in its own words.
    `text` is its error reply, which begins with a code."""
    return _REFUSALS.get(text.partition(" ")[0], text)
