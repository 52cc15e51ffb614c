"""What is counted of a fleet is what a look at each of its agents shows, and costs a part of it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from msgspec import to_builtins

from core.config.settings import AgentConfig, RedisConfig
from core.fleet_counts import AgentBrief
from core.operations.fleet_counts import read_fleet_counts
from core.operations.overview import read_agents, read_overview
from core.operations.reader import Reader, reading
from core.overview import AgentView, Overview
from core.ports import Part
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.status_reports import Beat
from tests.builders import SECRET
from tests.fleets import LIFE_S, StoredFleet
from tests.redis_server import RedisServer

CONFIG = AgentConfig(failure_timeout_s=LIFE_S)
TOP = Address(Role.COORDINATOR, "c")
CELL = Address(Role.DISTRIBUTOR, "stored-000")


class Counted:
    """A reader that counts what it asks."""

    def __init__(self, reader: Reader) -> None:
        self.look, self.commands = self._look, 0
        self._reader = reader

    async def _look(self, *commands: Sequence[Part]) -> list[Any]:
        self.commands += len(commands)
        return await self._reader.look(*commands)


def beat(worker: str, sent_ms: int, **said: Any) -> bytes:
    """A heartbeat of a worker of CELL, as it is stored."""
    chain = (TOP, CELL, Address(Role.WORKER, worker))
    outbox = Outbox(chain, KeyRing.from_secret(SECRET, chain))
    payload = {**to_builtins(Beat(beat=2, **said)), "action": Action.BEAT.value}
    return outbox.beat(CELL, payload, 2, sent_ms)


def told(agent: AgentView | AgentBrief) -> tuple[Any, ...]:
    """All that both say of an agent, but for how long it is silent."""
    if isinstance(agent, AgentBrief):
        numbers = (agent.running, agent.queued, agent.slots, agent.agent_slots, agent.done, agent.failed)
        return agent.health, agent.silent_ms is None, agent.unread, *numbers
    said = agent.beat or Beat()
    runs = said.agent_concurrency if said.agents else 0
    numbers = (said.running, said.queued, said.concurrency, runs, said.done, said.failed)
    return agent.health, agent.silent_ms is None, agent.inbox, *numbers


def disturb(server: RedisServer) -> None:
    """Some leave, die, drain, are silent or not heard; one is known without its parents; and somebody else writes."""
    cell, top, now_ms = CellKeys(CELL.agent_id), CoordinatorKeys("c"), int(time.time() * 1000)
    chance = random.Random(16)
    names = [f"stored-000-{number:02}" for number in range(99)]
    chance.shuffle(names)
    with server.connect() as admin:
        for name in names[:9]:
            admin.delete(cell.worker_lease(name))
        admin.hdel(cell.heartbeats, *names[6:15])
        for number, name in enumerate(names[20:60]):
            said: dict[str, Any] = {
                "running": number, "queued": number % 3, "done": 7 * number, "failed": number % 5, "concurrency": 4,
                "draining": number % 7 == 1, "heard": number % 11 != 1, "agent_concurrency": 100,
                "agents": ("chat",) if number % 2 else (), "capabilities": (f"task:t{number % 4}", "gpu"),
                "graphs": ("chat",) if number % 2 else (),
            }  # fmt: skip
            admin.hset(cell.heartbeats, name, beat(name, now_ms - (number % 3) * LIFE_S * 600, **said))
            for _ in range(number % 4):
                admin.xadd(cell.worker_inbox(name), {"a": "b"})
        admin.hset(cell.heartbeats, names[61], b"rubbish")
        admin.hset(
            cell.heartbeats, names[62], beat(names[62], now_ms, running=1).replace(b'"running":1', b'"running":[]')
        )
        admin.delete(cell.worker_inbox(names[63]), cell.worker_lease(names[64]))
        admin.set(cell.worker_inbox(names[63]), "no stream")
        admin.hset(cell.worker_lease(names[64]), "no", "text")
        admin.sadd(ACTIVE, "coordinator:c/distributor:lonely/worker:w", "coordinator:other/distributor:d", "x:y", "")
        admin.xadd(CellKeys("stored-001").quarantine, {"a": "b"})
        admin.xadd(top.inbox, {"a": "b"})
        admin.hset(top.header, "waiting", '{"waiting":{"nobody_has":5,"all_full":2}}')
        admin.zadd(top.open, {"t1": 1, "t2": 2})
        admin.zadd(top.dead, {"t3": 3})


async def test_the_counts_say_of_every_agent_what_an_overview_says(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    StoredFleet(redis_server, "c", SECRET.decode()).grow(300)
    disturb(redis_server)
    async with reading(redis_config) as reader:
        asking = Counted(reader)
        counts = await read_fleet_counts(asking, "c", CONFIG)  # type: ignore[arg-type]
        overview = await read_overview(reader, "c", CONFIG)

        assert {agent.chain: told(agent) for agent in counts.agents} == {a.chain: told(a) for a in overview.agents}
        assert len(counts.agents) == 1 + 300 + 2
        assert {agent.health for agent in counts.agents} == {a.health for a in overview.agents}
        assert len({agent.health for agent in counts.agents}) == 5, "there are some of each"
        for role, tier in counts.tiers.items():
            there = overview.of_role(role)
            assert (tier.agents, tier.up) == (len(there), sum(agent.up for agent in there))
        assert counts.waiting == overview.waiting
        assert counts.quarantined == overview.quarantined == {"distributor:stored-001": 1}
        assert (counts.open_tasks, counts.dead_letters) == (overview.open_tasks, overview.dead_letters) == (2, 1)
        assert [*counts.task_types] == overview.task_types
        assert "t3" in counts.task_types
        assert counts.graphs == {"chat"}
        assert {*counts.unreadable} == {*overview.unreadable}
        assert len(counts.unreadable) == 6

        assert asking.commands <= 2 * len(counts.agents) + 2 * 4 + 20, "two for each agent, and some for each cell"

        await shown_alike(reader, overview)


async def shown_alike(reader: Reader, overview: Overview) -> None:
    """Some agents, read alone, are as they are among all."""
    chosen = [agent for agent in overview.agents if agent.agent_id.endswith("7")] + [overview.agents[0]]
    views, unreadable = await read_agents(reader, [agent.chain for agent in chosen], CONFIG)

    assert [replace(view, silent_ms=0) for view in views] == [replace(agent, silent_ms=0) for agent in chosen]
    assert {*unreadable} <= {*overview.unreadable}
