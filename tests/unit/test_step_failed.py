"""A step that failed half way: what the agent says of itself until it has dealt with the messages of that step."""

from __future__ import annotations

import asyncio
from typing import Any

from core.config.settings import AgentConfig
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection, packed
from core.memory_backend.store import MemoryStore
from core.roles import Action
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.step import Batch, Sending, Step
from distributor.agent import DistributorBehaviour
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, a_task

CHAIN = (COORDINATOR, DISTRIBUTOR)


class FailsOnce(DistributorBehaviour):
    """A distributor whose first step with a message fails. `said`: how far it has read, as a heartbeat would say while
    it reads its state again, and at the end."""

    failed = False

    def decide(self, batch: Batch) -> Step:
        if batch.messages and not self.failed:
            self.failed = True
            raise RuntimeError("half way")
        return super().decide(batch)

    async def load(self, loop: AgentLoop) -> None:
        self.said: list[Any] = []
        await super().load(loop)
        if self.failed:
            self.said.append(loop.report.payload(Action.BEAT, 1)["received"])


async def assigned_and_failed() -> FailsOnce:
    store = MemoryStore(ServerTime())
    behaviour = FailsOnce(DISTRIBUTOR, COORDINATOR, AgentConfig())
    setup = AgentSetup(CHAIN, KeyRing.from_secret(SECRET, CHAIN), lambda: MemoryConnection(store), AgentConfig())
    loop = assembled(behaviour, setup)
    await loop.start()
    outbox = Outbox((COORDINATOR,), KeyRing.from_secret(SECRET, (COORDINATOR,)))
    step, session = Step(), store.open_session()
    outbox.incarnation = setup.clock.now_ms()
    step.send(Sending(DISTRIBUTOR, Action.ASSIGN_TASK), a_task("t").evolve(root_id="t").to_json())
    for name, *parts in outbox.commands(step, setup.clock.now_ms()):
        store.execute(session, str(name), [packed(part) for part in parts])
    running = asyncio.create_task(loop.run())
    await asyncio.sleep(1)
    loop.stop()
    await running
    behaviour.said.append(loop.report.payload(Action.BEAT, 2)["received"])
    return behaviour


def test_no_heartbeat_says_that_a_message_was_read_whose_step_has_failed_and_was_not_repeated_yet() -> None:
    behaviour = run_virtual(assigned_and_failed(), seed=0)

    assert (behaviour.said, [*behaviour.state.local_tasks]) == ([0, 1], ["t"])
