"""Removes the tasks of a distributor that is gone from its cell, so that other distributors can get them.

There are three steps: the cell is fenced, its attempts are recorded by the coordinator, and it is emptied. The attempts
are recorded before that, since they are known nowhere else. If this process dies after any step, its successor finds
the distributor gone as before, and begins again.
"""

from __future__ import annotations

from coordinator.state import NoteAttempts
from core import failpoints
from core.errors import BadTask, PeerError
from core.ports import Command
from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys
from core.roles import Address, Role
from core.runtime.agent_loop import AgentLoop
from core.sealing import Sealed
from core.tasks import Task

__all__ = ["Takeover"]


class Takeover:
    """A takeover by the coordinator that `loop` runs. Call `fence`, `note_attempts`, `empty` and `give_back`, in this
    order, and `close` in any case."""

    def __init__(self, loop: AgentLoop, distributor_id: str) -> None:
        self._loop = loop
        self._distributor = Address(Role.DISTRIBUTOR, distributor_id)
        self._cell = CellKeys(distributor_id)
        revoked = loop.setup.signing.revokes(self._distributor)  # a live process may then have its key, and the lease
        self._committer = Committer(
            loop.setup.open_connection(), self._distributor, self._cell.agent(loop.setup.me.agent_id), loop.setup.clock,
            lease_ms=loop.setup.lease_ms, takeover=True, by_force=revoked,
            trail=loop.setup.trail_of(self._distributor),
        )  # fmt: skip
        self._moved: list[bytes] = []  # ids of records that leave the cell
        self.had: dict[str, Task] = {}  #: task id -> its record in the cell, if it has had an attempt

    async def fence(self) -> None:
        """Takes the distributor's lease, with a higher fence than it had. Raises LeaseHeld: the distributor lives;
        TransportDown, ServerRefused."""
        await self._committer.leaseholder.acquire()
        failpoints.hit("takeover")

    async def note_attempts(self) -> None:
        """Makes the coordinator record the attempts that the cell knows of. Raises LeaseLost: they are not recorded;
        TransportDown, ServerRefused."""
        [actual] = await self._committer.run(("HGETALL", self._cell.actual))
        for task_id, record in zip(actual[::2], actual[1::2], strict=True):
            task = self._task(task_id, record)
            if task and not task.root_id:
                continue  # a program assigned it to this distributor, so only a successor with this id can have it
            self._moved.append(task_id)
            if task and task.attempt:  # otherwise it has not begun
                self.had[task.task_id] = task
        await self._loop.local_events.call(NoteAttempts(self._distributor.agent_id, self.had))

    async def empty(self) -> None:
        """Removes the tasks that leave the cell, its unread messages and its heartbeats. Raises LeaseLost: the cell
        stays as it is."""
        commands: list[Command] = [
            ("DEL", self._cell.inbox, self._cell.heartbeats),
            ("HSET", self._cell.header, "status", "idle"),
        ]
        if self._moved:
            commands.append(("HDEL", self._cell.actual, *self._moved))
        await self._committer.commit(commands, dict.fromkeys(self.had, ("moved",)))

    async def give_back(self) -> None:
        """Gives the lease back, so that the distributor's successor need not wait."""
        await self._committer.leaseholder.release()

    async def close(self) -> None:
        """Closes the connection. A lease that was not given back lapses."""
        await self._committer.close()

    def _task(self, task_id: bytes, sealed: bytes) -> Task | None:
        """The task in a record of the distributor; None: only its end is still shown, or the record is not its own."""
        try:
            seals = self._loop.setup.signing.seals_of(self._distributor)
            return Task.from_json(seals.opened(Sealed.CELL, task_id.decode(), sealed))
        except (PeerError, BadTask, ValueError):
            return None
