"""A recorded life once more: the same store, the same batches, and what today's code decides."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.agent import CoordinatorBehaviour
from core.config.settings import AgentConfig
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.roles import Address, Role
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.signing import KeyRing
from distributor.agent import DistributorBehaviour
from tests.builders import SECRET
from tests.replay.recording import Beginning, Moment, batch_of
from tests.replay.telling import told
from worker.agent import WorkerBehaviour
from worker.authoring.registry import Handlers

__all__ = ["replayed"]


def replayed(beginning: Beginning, moments: list[Moment]) -> list[list[str]]:
    """What the steps of that life say, a list for each batch."""
    return run_virtual(_replay(beginning, moments), seed=0)


async def _replay(beginning: Beginning, moments: list[Moment]) -> list[list[str]]:
    chain = tuple(map(Address.parse, beginning.chain))
    behaviour = await _at_the_beginning(beginning, chain)
    said = []
    for moment in moments:
        batch = batch_of(moment, chain[-1].role)
        step = behaviour.decide(batch)
        said.append(told(step, list(batch.events), behaviour.next_wake_ms(), drained=behaviour.drained))
    return said


async def _at_the_beginning(beginning: Beginning, chain: tuple[Address, ...]) -> Any:
    """The tier's own code, with the memory that it makes of what lay in the store."""
    config = AgentConfig(**beginning.config)
    behaviour, store = _behaviour(chain, config), _store(beginning)
    keys = KeyRing.from_secret(SECRET, chain)
    loop = assembled(behaviour, AgentSetup(chain, keys, lambda: MemoryConnection(store), config))
    await asyncio.sleep((beginning.mono_ms + 0.5) / 1000 - asyncio.get_running_loop().time())
    await loop.committer.leaseholder.acquire()
    await behaviour.load(loop)
    if chain[-1].role is not Role.WORKER:
        behaviour.state.incarnation = beginning.incarnation
    return behaviour


def _store(beginning: Beginning) -> MemoryStore:
    store = MemoryStore(ServerTime())
    session = store.open_session()
    for key, fields in beginning.hashes.items():
        for name, value in fields.items():
            store.execute(session, "HSET", [part.encode() for part in (key, name, value)])
    for key, members in beginning.sorted_sets.items():
        for name, score in members.items():
            store.execute(session, "ZADD", [part.encode() for part in (key, str(score), name)])
    return store


def _behaviour(chain: tuple[Address, ...], config: AgentConfig) -> Any:
    me = chain[-1]
    if me.role is Role.COORDINATOR:
        return CoordinatorBehaviour(me.agent_id, config)
    if me.role is Role.DISTRIBUTOR:
        return DistributorBehaviour(me, chain[0], config)
    return WorkerBehaviour(chain, config, Handlers(), (), ())
