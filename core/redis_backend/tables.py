"""A step's writes as Redis commands: the key of each table, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping

from core.ports import Command
from core.redis_backend.audit_trail import audit_entry
from core.redis_backend.commit import Committer, DeferredCommand
from core.redis_backend.keys import AgentKeys, CellKeys, CoordinatorKeys
from core.roles import Address
from core.sealing import Sealed, Seals
from core.step import Step, Table
from core.stored import number_in

__all__ = ["Tables"]

SORTED_SETS = frozenset({Table.OPEN, Table.ENDED, Table.DEAD, Table.QUESTIONS})
#: Tables whose records are sealed: they decide what runs, and what a client is told.
SEALED = {
    Table.TASKS: Sealed.TASK,
    Table.SUBMISSIONS: Sealed.SUBMISSION,
    Table.SCHEDULES: Sealed.SCHEDULE,
    Table.ACTUAL: Sealed.CELL,
    Table.QUOTAS: Sealed.QUOTA,
}

WANTED, SETTLED = ("wanted",), ("settled",)  #: names of the desired state of a cell in the audit trail


class Tables:
    """The tables of one agent. Knows the version of the coordinator's half of each cell it has written to."""

    def __init__(self, me: Address, committer: Committer, keys: AgentKeys, seals: Seals) -> None:
        self._me = me
        self._seals = seals
        self._committer = committer
        self._keys = keys
        self._wanted_versions: dict[str, int] = {}

    async def commands(self, step: Step) -> list[Command | DeferredCommand]:
        """All writes of `step`. Raises TransportDown only when it is to wait no longer: nothing was written."""
        commands: list[Command | DeferredCommand] = []
        for (table, whose), values in step.writes.items():
            if kind := SEALED.get(table):
                seal = self._seals.seal  # an Unsealed value is of another type, and gets none
                values = {n: seal(kind, n, value) if type(value) is bytes else value for n, value in values.items()}
            commands += _write(table, self._key(table, whose), values)
            if table is Table.WANTED:
                commands += await self._sign_off(whose, values)
        return commands

    async def _sign_off(
        self, distributor_id: str, values: Mapping[str, bytes | int | None]
    ) -> list[Command | DeferredCommand]:
        """The coordinator's half of a cell has a version and a trail of its own, with the fence under which they are
        written in the end, and a hint for whoever listens."""
        cell = CellKeys(distributor_id)
        if distributor_id not in self._wanted_versions:
            [stored] = await self._committer.look_up(("HGET", cell.header, "coordinator_version"))
            self._wanted_versions[distributor_id] = number_in(stored)
        version = self._wanted_versions[distributor_id] = self._wanted_versions[distributor_id] + 1
        changes = {task_id: WANTED if value else SETTLED for task_id, value in values.items()}
        return [
            lambda epoch: ("HSET", cell.header, "coordinator_version", version, "coordinator_epoch", epoch),
            lambda epoch: audit_entry(
                cell.history, side="coordinator", by=self._me.agent_id, version=version, epoch=epoch, changes=changes
            ),
            ("PUBLISH", cell.changes, f"coordinator {version}"),
        ]

    def _key(self, table: Table, whose: str) -> str:
        if table is Table.HEADER:
            return self._keys.header
        if table is Table.HEARTBEATS:
            return self._keys.heartbeats
        if table is Table.WANTED:
            return CellKeys(whose).wanted
        if table is Table.ACTUAL:
            return CellKeys(self._me.agent_id).actual
        coordinator = CoordinatorKeys(self._me.agent_id)
        return {
            Table.TASKS: coordinator.tasks,
            Table.OPEN: coordinator.open,
            Table.ENDED: coordinator.ended,
            Table.DEAD: coordinator.dead,
            Table.QUESTIONS: coordinator.questions,
            Table.SUBMISSIONS: coordinator.submissions,
            Table.SCHEDULES: coordinator.schedules,
            Table.QUOTAS: coordinator.quotas,
            Table.WEBHOOKS: coordinator.webhooks,
        }[table]


def _write(table: Table, key: str, values: Mapping[str, bytes | int | None]) -> list[Command]:
    """One command for everything that is put, and one for everything that is removed."""
    removed = [name for name, value in values.items() if value is None]
    commands: list[Command] = []
    if table in SORTED_SETS:
        put = [part for name, value in values.items() if value is not None for part in (value, name)]
    else:
        put = [part for name, value in values.items() if value is not None for part in (name, value)]
    if put:
        commands.append(("ZADD" if table in SORTED_SETS else "HSET", key, *put))
    if removed:
        commands.append(("ZREM" if table in SORTED_SETS else "HDEL", key, *removed))
    return commands
