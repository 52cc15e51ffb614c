"""The registry of a hierarchy: agents register, say that they live, and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from core.errors import AgentTaken, BadAgent
from core.ports import Command
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import DEREGISTER, REGISTER, RENEW
from core.registry.agent_info import (
    DEFAULT_LEASE_MS,
    MAX_LEASE_MS,
    MIN_LEASE_MS,
    AgentInfo,
    Declared,
    Load,
    Vital,
    fields_of,
    fields_of_vital,
    info_of,
)
from core.registry.health import health_score, regularity
from core.stored import pairs

__all__ = [
    "KINDS", "AgentRegistry", "RegistryStats", "Scripted", "clock_ms", "deregister_command", "register_command",
    "renew_command",
]  # fmt: skip

#: The kinds of indexes.
KINDS = ("type", "status", "capability", "service", "graph", "tag")


class Scripted(Protocol):
    """Runs commands, of which the scripts of the registry are some."""

    async def run(self, *commands: Command) -> list[Any]:
        """The replies, in order. Raises TransportDown, and ServerRefused for the first refusal."""


class RegistryStats(Struct, frozen=True, kw_only=True):
    """How many agents are registered now, whose lease is not over."""

    registered: int
    suspect: int  #: those of them that are silent
    by_type: dict[str, int]
    by_status: dict[str, int]  #: as they have said at their last heartbeat
    by_capability: dict[str, int]
    by_service: dict[str, int]
    by_graph: dict[str, int]
    by_tag: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


class AgentRegistry:
    """Registers agents in the registry of one coordinator's hierarchy, and says how they are.

    Each call that writes is one step on the server: after a crash, record and indexes agree. All raise TransportDown:
    what a call changes may or may not have been changed, and it can be repeated; and ServerRefused."""

    def __init__(self, coordinator_id: str, source: Scripted) -> None:
        """`source`: runs commands, among them the scripts of the registry; see `core.registry.source`."""
        self._keys = RegistryKeys(coordinator_id)
        self._run = source.run

    async def register(
        self,
        declared: Declared,
        *,
        place: str = "",
        incarnation: int = 0,
        lease_ms: int = DEFAULT_LEASE_MS,
        vital: Vital | None = None,
    ) -> int:
        """Registers an agent, for as long as its lease; again, with what it says now. Returns the number of its start,
        which `incarnation` gives, or else the server's clock. `place`: an id means one agent, which is at one place at
        a time.

        Raises BadAgent; AgentTaken: another agent of that id is registered, or this one has started again since."""
        declared.check()
        command = register_command(self._keys, declared, vital or Vital(), place, incarnation, _checked(lease_ms))
        [reply] = await self._run(command)
        if isinstance(reply, bytes):
            raise AgentTaken(declared.agent_id, reply.decode(errors="replace"))
        return int(reply)

    async def heartbeat(
        self, agent_id: str, load: Load | None = None, *, error_rate: float = 0.0, stalled_ms: float = 0.0,
        is_paused: bool | None = None, lease_ms: int = DEFAULT_LEASE_MS, incarnation: int = 0,
    ) -> bool:  # fmt: skip
        """Extends the lease of an agent, and stores how it is. Returns whether it is registered: if not, since its
        lease is over or `incarnation` is not its present one, it has to register again. `load`, `is_paused`: None: as
        before."""
        [time, fields] = await self._run(("TIME",), ("HGETALL", self._keys.record(agent_id)))
        now_ms = clock_ms(time)
        info = info_of(pairs(fields), now_ms) if fields else None
        if info is None:
            return False
        regular = regularity(info.regularity, now_ms - info.last_heartbeat.timestamp() * 1000, lease_ms)
        vital = Vital(
            load=info.load_metrics if load is None else load,
            health_score=health_score(regular, error_rate, stalled_ms, lease_ms),
            regularity=regular,
            is_paused=info.is_paused if is_paused is None else is_paused,
        )
        [renewed] = await self._run(renew_command(self._keys, agent_id, vital, incarnation, _checked(lease_ms)))
        return bool(renewed)

    async def deregister(self, agent_id: str, incarnation: int = 0) -> bool:
        """Removes an agent from all indexes; its record stays for a day. Returns whether it was registered, with that
        incarnation unless it is 0."""
        [removed] = await self._run(deregister_command(self._keys, agent_id, incarnation))
        return bool(removed)

    async def get(self, agent_id: str) -> AgentInfo | None:
        """The agent as it is now, also if it has been gone for less than a day; None: nobody knows it."""
        time, fields = await self._run(("TIME",), ("HGETALL", self._keys.record(agent_id)))
        return info_of(pairs(fields), clock_ms(time)) if fields else None

    async def stats(self) -> RegistryStats:
        """How many there are, by what they are and can do. It takes two round trips, and as long as there are different
        capabilities, services and tags."""
        leases, suspects, indexes = self._keys.of_scripts
        time, names = await self._run(("TIME",), ("SMEMBERS", indexes))
        now_ms = clock_ms(time)
        known = sorted(name.decode(errors="replace") for name in names)
        registered, expired, silent, *sizes = await self._run(
            ("ZCOUNT", leases, f"({now_ms}", "+inf"), ("ZCOUNT", leases, "-inf", now_ms),
            ("ZCOUNT", suspects, "-inf", now_ms), *(("ZCARD", self._keys.index(name)) for name in known),
        )  # fmt: skip
        by: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        for name, size in zip(known, sizes, strict=True):
            kind, _, value = name.partition(":")
            if kind in by:
                by[kind][value] = size
        return RegistryStats(
            registered=registered,
            suspect=max(0, silent - expired),
            by_type=by["type"],
            by_status=by["status"],
            by_capability=by["capability"],
            by_service=by["service"],
            by_graph=by["graph"],
            by_tag=by["tag"],
        )


def _command(keys: RegistryKeys, script: str, *arguments: str | bytes | int) -> Command:
    return ("EVALSHA", name_of(script), 3, *keys.of_scripts, keys.records, keys.indexes, *arguments)


def register_command(
    keys: RegistryKeys, declared: Declared, vital: Vital, place: str, incarnation: int, lease_ms: int
) -> Command:
    """The command that registers an agent; its reply is the incarnation, or as a text the place of another one."""
    fields: Sequence[str | bytes] = [*fields_of(declared), *fields_of_vital(vital)]
    indexes = "\n".join(declared.indexes())
    return _command(keys, REGISTER, declared.agent_id, place, incarnation, lease_ms, indexes, *fields)


def renew_command(keys: RegistryKeys, agent_id: str, vital: Vital, incarnation: int, lease_ms: int) -> Command:
    """The command that extends a lease; its reply is 0 if the agent is not registered (see RENEW)."""
    return _command(keys, RENEW, agent_id, incarnation, lease_ms, *fields_of_vital(vital))


def deregister_command(keys: RegistryKeys, agent_id: str, incarnation: int) -> Command:
    """The command with which an agent leaves; its reply is 0 if it is not registered."""
    return _command(keys, DEREGISTER, agent_id, incarnation)


def _checked(lease_ms: int) -> int:
    if not MIN_LEASE_MS <= lease_ms <= MAX_LEASE_MS:
        raise BadAgent(f"a lease takes {MIN_LEASE_MS / 1000:g} to {MAX_LEASE_MS / 1000:g} s, not {lease_ms / 1000:g} s")
    return lease_ms


def clock_ms(reply: Sequence[bytes]) -> int:
    """The server's clock in a reply to TIME, ms since 1970."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000
