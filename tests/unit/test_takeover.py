"""The three steps by which a coordinator takes the tasks of a lost distributor: what each leaves in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coordinator.agent import CoordinatorBehaviour
from coordinator.takeover import Takeover
from core.config.settings import AgentConfig
from core.errors import LeaseHeld
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.sealing import Sealed, bare
from core.signing import KeyRing
from core.tasks import Task, TaskStatus
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, a_task

KEYS = CoordinatorKeys(COORDINATOR.agent_id)
CELL = CellKeys(DISTRIBUTOR.agent_id)
RING = KeyRing.from_secret(SECRET, (COORDINATOR,))
CELL_SEALS = RING.seals_of(DISTRIBUTOR)


def handed(task_id: str, **fields: Any) -> Task:
    status = {"status": TaskStatus.IN_PROGRESS, "assigned_to": DISTRIBUTOR.agent_id}
    return a_task(task_id).evolve(**{"root_id": task_id, **status, **fields})


#: What lies in the cell, by id: begun there, waiting there, a program's own, forged, and only shown still.
IN_CELL = {
    "begun": CELL_SEALS.seal(Sealed.CELL, "begun", handed("begun", attempt=2, retry_count=1).to_json()),
    "waiting": CELL_SEALS.seal(Sealed.CELL, "waiting", handed("waiting", attempt=0).to_json()),
    "own": CELL_SEALS.seal(Sealed.CELL, "own", handed("own", attempt=1, root_id=None).to_json()),
    "forged": handed("forged", attempt=9).to_json(),
    "ended": b'{"task_id":"ended","status":"completed"}',
}


class Cell:
    """A coordinator at work that has handed two tasks to a distributor, and the cell of that."""

    def __init__(self) -> None:
        self.store = MemoryStore(ServerTime())
        self._session = self.store.open_session()

    def ask(self, name: str, *parts: Any) -> Any:
        arguments = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        return self.store.execute(self._session, name, arguments)

    def fill(self) -> None:
        """Stores what was handed over, and a message that nobody has read."""
        for task_id, record in IN_CELL.items():
            self.ask("HSET", CELL.actual, task_id, bytes(record))
        self.ask("XADD", CELL.inbox, "*", "unread", "message")
        for number, task_id in enumerate(("begun", "waiting")):
            record = RING.seals.seal(Sealed.TASK, task_id, handed(task_id).to_json())
            self.ask("HSET", KEYS.tasks, task_id, bytes(record))
            self.ask("ZADD", KEYS.open, number, task_id)

    def connection(self) -> MemoryConnection:
        return MemoryConnection(self.store)

    @property
    def left(self) -> set[str]:
        return {name.decode() for name in self.ask("HKEYS", CELL.actual)}

    @property
    def attempts_recorded(self) -> list[int]:
        """Of `begun` and `waiting`, as the coordinator has them stored."""
        return [Task.from_json(bare(one)).attempt for one in self.ask("HMGET", KEYS.tasks, "begun", "waiting")]

    async def during(self, story: Callable[[Takeover], Awaitable[None]]) -> None:
        """Tells the story of a takeover while the coordinator turns."""
        self.fill()
        config = AgentConfig()
        behaviour = CoordinatorBehaviour(COORDINATOR.agent_id, config)
        loop = assembled(behaviour, AgentSetup((COORDINATOR,), RING, self.connection, config))
        await loop.start()
        running = asyncio.create_task(loop.run())
        takeover = Takeover(loop, DISTRIBUTOR.agent_id)
        await story(takeover)
        await takeover.close()
        loop.stop()
        await running
        await loop.finish()


def test_attempts_are_written_down_before_the_cell_is_emptied() -> None:
    cell = Cell()

    async def story(takeover: Takeover) -> None:
        await takeover.fence()
        assert (cell.left, cell.attempts_recorded) == ({*IN_CELL}, [0, 0])

        await takeover.note_attempts()
        assert (cell.left, cell.attempts_recorded) == ({*IN_CELL}, [2, 0])
        assert {task_id: task.attempt for task_id, task in takeover.had.items()} == {"begun": 2}

        await takeover.empty()
        assert (cell.left, cell.attempts_recorded) == ({"own"}, [2, 0])
        assert (cell.ask("XLEN", CELL.inbox), cell.ask("HGET", CELL.header, "status")) == (0, b"idle")
        assert cell.ask("TYPE", CELL.lease) == b"string"

        await takeover.give_back()
        assert cell.ask("TYPE", CELL.lease) == b"none"

    run_virtual(cell.during(story), seed=0)


def test_a_distributor_that_renews_its_lease_keeps_its_cell() -> None:
    cell = Cell()

    async def story(takeover: Takeover) -> None:
        keys = CELL.agent(COORDINATOR.agent_id)
        holder = Committer(cell.connection(), DISTRIBUTOR, keys, ServerClock(), lease_ms=5_000)
        await holder.leaseholder.acquire()
        trying = asyncio.create_task(takeover.fence())
        await asyncio.sleep(1)
        await holder.renew()

        with pytest.raises(LeaseHeld):
            await trying
        await holder.renew()

    run_virtual(cell.during(story), seed=0)

    assert cell.left == {*IN_CELL}
