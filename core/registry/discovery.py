"""Finding agents: by what they are, what they can do and how they are, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from core.errors import BadAgent
from core.ports import Command
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import FIND, HEALTH_LEVELS
from core.registry.agent_info import AgentInfo, FleetStatus, Lifecycle, info_of
from core.registry.agent_registry import Scripted, clock_ms
from core.registry.health import FALLING_SHARE
from core.roles import Role
from core.stored import pairs
from core.tasks import Task

__all__ = ["OWN_TYPES", "AgentDiscoveryService", "Page", "Wanted"]

MAX_PAGE, DEFAULT_PAGE = 1_000, 100
#: How many agents one script looks at, and how many scripts a page takes at most. So a page may be short, or empty,
#: although more follow behind `next`.
LOOKS, ROUNDS = 1_000, 20
#: By how much the health that is told may be above the exact one, which the script looks at.
ROUNDED = 0.0005
#: How many kinds of tasks are looked at for a warning, and how many agents for each.
MAX_KINDS, WORKERS_LOOKED_AT = 50, 50
#: What the task types of the system itself begin with. Every worker runs them.
OWN_TYPES = "agents."


class Wanted(Struct, frozen=True, kw_only=True):
    """Which agents: those that fulfil all of it."""

    agent_ids: tuple[str, ...] = ()  #: one of these; none: any
    agent_type: str | None = None
    status: FleetStatus | None = None
    capabilities: tuple[str, ...] = ()  #: all of these
    services: tuple[str, ...] = ()  #: all of these
    graph: str | None = None
    tags: tuple[str, ...] = ()  #: all of these
    min_health: float = 0.0

    def fits(self, info: AgentInfo) -> bool:
        """Whether an agent is wanted."""
        return (
            (not self.agent_ids or info.agent_id in self.agent_ids)
            and self.agent_type in (None, info.agent_type)
            and self.status in (None, info.status)
            and set(self.capabilities) <= {*info.capabilities}
            and set(self.services) <= {*info.services}
            and (self.graph is None or self.graph in info.graphs)
            and set(self.tags) <= {*info.tags}
            and info.health_score >= self.min_health
        )

    @property
    def indexes(self) -> list[str]:
        """The indexes in which all of them are, as far as there are some."""
        named = (
            ("type", (self.agent_type,)), ("capability", self.capabilities), ("service", self.services),
            ("graph", (self.graph,)), ("tag", self.tags),
        )  # fmt: skip
        found = [f"{kind}:{name}" for kind, names in named for name in names if name is not None]
        if self.status not in (None, FleetStatus.STALE):
            found.append(f"status:{self.status}")
        return found or ["all"]

    @property
    def heard(self) -> str:
        """What the script takes: which of suspects and others."""
        if self.status is None:
            return ""
        return "suspect" if self.status is FleetStatus.STALE else "heard"

    @property
    def health(self) -> tuple[str | int, ...]:
        """What the script takes: the least health, the level up to it, and how silence lowers it."""
        level = max(level for level in HEALTH_LEVELS if level <= self.min_health * 100)
        return str(max(0.0, self.min_health - ROUNDED)), level, str(FALLING_SHARE)


class Page(Struct, frozen=True, kw_only=True):
    """Some of the agents that were asked for, by id."""

    agents: tuple[AgentInfo, ...]
    next: str | None  #: the id after which the next page begins; None: this was the last one


class AgentDiscoveryService:
    """Finds agents that are registered and not gone. What it costs depends on how many agents have the rarest of what
    is asked for, up to a page, and not on how many there are. It only reads.

    Raises TransportDown, ServerRefused."""

    def __init__(self, coordinator_id: str, source: Scripted) -> None:
        """`source`: as of AgentRegistry."""
        self._keys = RegistryKeys(coordinator_id)
        self._run = source.run

    async def find(self, wanted: Wanted | None = None, *, limit: int = DEFAULT_PAGE, after: str = "") -> Page:
        """The first `limit` agents that are wanted, by id, of those behind the id `after`. If few of very many fit, a
        page has fewer, although more follow. Raises BadAgent: that is not how many a page may have, or no health."""
        wanted = wanted or Wanted()
        if not 1 <= limit <= MAX_PAGE:
            raise BadAgent(f"limit: a page has 1 to {MAX_PAGE} agents, not {limit}")
        if not 0 <= wanted.min_health <= 1:
            raise BadAgent(f"min_health: takes 0.0 to 1.0, not {wanted.min_health}")
        if wanted.agent_ids:
            return await self._named(wanted, limit, after)
        found: list[AgentInfo] = []
        for _ in range(ROUNDS):
            now_ms, after, records = await self._look(wanted, after, limit - len(found))
            infos = [info for fields in records if (info := info_of(pairs(fields), now_ms)) is not None]
            found += [info for info in infos if wanted.fits(info)]  # a record that nobody of ours wrote may not
            if not after or len(found) == limit:
                break
        return Page(agents=tuple(found), next=after or None)

    async def by_capability(self, capability: str, *, limit: int = DEFAULT_PAGE, after: str = "") -> Page:
        """Those that can do it."""
        return await self.find(Wanted(capabilities=(capability,)), limit=limit, after=after)

    async def by_service(self, service: str, *, limit: int = DEFAULT_PAGE, after: str = "") -> Page:
        """Those that run tasks of this type."""
        return await self.find(Wanted(services=(service,)), limit=limit, after=after)

    async def capabilities(self, prefix: str) -> list[str]:
        """The capabilities that begin so, of whoever is registered or was a moment ago. It takes as long as there are
        different capabilities, services and tags."""
        [names] = await self._run(("SMEMBERS", self._keys.of_scripts[2]))
        known = (name.decode(errors="replace").partition(":") for name in names)
        return sorted(name for kind, _, name in known if kind == "capability" and name.startswith(prefix))

    async def warnings(self, tasks: Iterable[Task]) -> list[str]:
        """A sentence for each kind of task that none of the registered agents can run now, of the first MAX_KINDS. Such
        tasks wait, since an agent that can may come. One round trip."""
        kinds = dict.fromkeys((task.task_type, task.capabilities) for task in tasks)
        asked = [kind for kind in kinds if not kind[0].startswith(OWN_TYPES)][:MAX_KINDS]
        wanted = [
            each
            for task_type, capabilities in asked
            for each in (Wanted(services=(task_type,)), Wanted(services=(task_type,), capabilities=capabilities))
        ]
        found = await self._run(*(self._find(each, "", WORKERS_LOOKED_AT) for each in wanted))
        said = []
        for (task_type, capabilities), (running, able) in zip(asked, _in_twos(map(_works, found)), strict=True):
            if not running:
                said.append(f"no agent that is registered runs task type {task_type!r}, so it waits for one that does")
            elif not able:
                said.append(
                    f"no agent that is registered and runs {task_type!r} has the capabilities it asks for:"
                    f" {', '.join(capabilities)}; it waits for one that does"
                )
        return said

    async def _look(self, wanted: Wanted, after: str, limit: int) -> tuple[int, str, list[list[bytes]]]:
        [(now_ms, last, records)] = await self._run(self._find(wanted, after, limit))
        return now_ms, last.decode(), records

    def _find(self, wanted: Wanted, after: str, limit: int) -> Command:
        indexes = [self._keys.index(name) for name in wanted.indexes]
        keys = [*self._keys.of_scripts, *indexes]
        prefixes = self._keys.records, self._keys.indexes
        looked_for = after, limit, LOOKS, wanted.heard, *wanted.health
        return ("EVALSHA", name_of(FIND), len(keys), *keys, *prefixes, *looked_for)

    async def _named(self, wanted: Wanted, limit: int, after: str) -> Page:
        ids = sorted(agent_id for agent_id in set(wanted.agent_ids) if agent_id > after)
        time, *records = await self._run(("TIME",), *(("HGETALL", self._keys.record(name)) for name in ids))
        infos = [info_of(pairs(fields), clock_ms(time)) for fields in records if fields]
        fit = [
            info for info in infos if info is not None and info.lifecycle is not Lifecycle.GONE and wanted.fits(info)
        ]
        return Page(agents=tuple(fit[:limit]), next=fit[limit - 1].agent_id if len(fit) > limit else None)


def _works(found: Any) -> bool:
    """Whether one of those found runs tasks itself: a distributor has the skills of all its workers together."""
    now_ms, _, records = found
    infos = (info_of(pairs(fields), now_ms) for fields in records)
    return any(info is not None and info.agent_type != Role.DISTRIBUTOR for info in infos)


def _in_twos(found: Iterable[bool]) -> Iterable[tuple[bool, bool]]:
    one = iter(found)
    return zip(one, one, strict=True)
