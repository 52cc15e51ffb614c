"""A recorded life once more: the same store, the same batches, and what today's code decides."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from core.config.settings import AgentConfig
from core.errors import AgentSystemError, BadRecording
from core.launch.programs import tier_of
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.recording.life import Beginning, Turn, batch_of
from core.recording.reader import RecordedLife
from core.recording.reads import contents
from core.recording.step_lines import failure_line, step_lines
from core.roles import Address
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.tier import Tier
from core.signing import KeyRing

__all__ = ["replay"]

#: Is given a turn as it was recorded, and the lines of today's step. Returns whether to go on.
Compare = Callable[[Turn, list[str]], bool]


def replay(life: RecordedLife, compare: Compare) -> None:
    """Has today's code decide on the batches of a life, until they end or `compare` returns False.

    It runs on an event loop of its own. Raises BadRecording when today's code cannot read what is in it."""
    beginning = life.beginning
    if beginning.nodes:
        raise BadRecording(
            f"this agent ran with nodes of its program ({', '.join(beginning.nodes)}), which are not here. What its"
            " tier alone would have decided says nothing of it."
        )
    try:
        chain = tuple(map(Address.parse, beginning.chain))
        tier, config = tier_of(chain[-1].role), AgentConfig(**beginning.config)
    except (AgentSystemError, ModuleNotFoundError) as error:
        raise BadRecording(f"what this agent was is not known here: {error}") from error
    run_virtual(_replay(life, tier, chain, config, compare), seed=0)


async def _replay(
    life: RecordedLife, tier: Tier, chain: tuple[Address, ...], config: AgentConfig, compare: Compare
) -> None:
    try:
        behaviour = await _at_the_beginning(life.beginning, tier, chain, config)
    except Exception as error:
        raise BadRecording(f"today's code fails to take up what this agent had read: {error!r}") from error
    for number, turn in enumerate(life.turns(), 1):
        try:
            batch = batch_of(turn.moment, tier)
        except (AgentSystemError, ValueError, KeyError) as error:
            raise BadRecording(f"batch {number} has something that this version does not know: {error!r}") from error
        try:
            step = behaviour.decide(batch)
            lines = step_lines(step, batch.events, behaviour.next_wake_ms(), drained=behaviour.drained)
        except Exception as error:
            lines = [failure_line(error)]
        if not compare(turn, lines):
            return


async def _at_the_beginning(beginning: Beginning, tier: Tier, chain: tuple[Address, ...], config: AgentConfig) -> Any:
    """The tier's own code, with the memory that it makes of what it had read."""
    keys, others = (KeyRing.from_secret(secrets.token_bytes(32), chain) for _ in range(2))
    store = MemoryStore(ServerTime())
    session = store.open_session()
    for name, *parts in contents(beginning, keys.seals, others.seals):
        store.execute(session, str(name), [part if isinstance(part, bytes) else part.encode() for part in parts])
    behaviour = tier.behaviour(chain, config)
    loop = assembled(behaviour, AgentSetup(chain, keys, lambda: MemoryConnection(store), config))
    loop.draining = beginning.draining
    await asyncio.sleep((beginning.read_ms + 0.5) / 1000 - asyncio.get_running_loop().time())
    await loop.committer.leaseholder.acquire()
    loop.committer.lease.incarnation = beginning.incarnation
    await behaviour.load(loop)
    return behaviour
