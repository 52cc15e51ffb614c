"""What the gateways of one coordinator remember together, so that any of them answers for what another was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core.checkpoints.connection import GroupedConnection
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.gateway_scripts import END_RUN, PUT_THREAD

if TYPE_CHECKING:
    from core.gateway.cron_runs import CronRuns

__all__ = ["BEGINNING", "AssistantRecord", "Records", "RunRecord", "ThreadRecord", "expires_at"]

#: How long a run without a thread can be asked for.
TEMPORARY_MS = 24 * 60 * 60 * 1000
#: How long an answer is that of the one who has taken it; by then the task goes on.
CLAIMED_MS = 60_000
#: Number of threads that are read at once.
PAGE = 200
#: The place before the first chunk of a run's stream.
BEGINNING = "0-0/-1"


class AssistantRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An assistant: a graph, and what its runs are given."""

    assistant_id: str
    graph_id: str
    name: str
    version: int = 1
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    tenant: str | None = None  #: whose it is; None: of those who see every tenant
    description: str | None = None
    created_at: datetime
    updated_at: datetime


class ThreadRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A thread, but for what its graphs remember."""

    thread_id: str
    metadata: dict[str, Any] = {}
    tenant: str | None = None  #: whose it is; None: of those who see every tenant
    ttl_minutes: float | None = None  #: how long it lives once nobody uses it any more; None: for good
    ttl_strategy: Literal["delete", "keep_latest"] = "delete"  #: what becomes of it then
    created_at: datetime
    updated_at: datetime  #: when it was used last: created, changed, or given a run or an update


class RunRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run, as a client has asked for it.

    A task that asks a question ends no run here, but goes on as the next one: so a run is a section of its task, from
    `after` up to `until`, places in the stream of the task."""

    run_id: str
    thread_id: str
    task_id: str
    assistant_id: str
    graph_id: str
    created_at: datetime
    metadata: dict[str, Any] = {}
    tenant: str | None = None  #: that of its thread and of its task
    multitask_strategy: str = "enqueue"
    modes: tuple[str, ...] = ()  #: as the client names them
    subgraphs: bool = False
    is_temporary: bool = False  #: it has no thread, and ends where it asks something
    after: str = BEGINNING
    attempts_before: int = 0  #: of its task
    until: str | None = None  #: None: it is the last run of its task
    ended: str | None = None  #: its status, once it is known to have ended


R = TypeVar("R", AssistantRecord, ThreadRecord, RunRecord)


def expires_at(thread: ThreadRecord) -> datetime | None:
    """When a thread expires unless it is used before; None: never."""
    return None if thread.ttl_minutes is None else thread.updated_at + timedelta(minutes=thread.ttl_minutes)


class Records:
    """Reads and writes them. Raises TransportDown and ServerRefused. What was written before a crash is there."""

    def __init__(
        self, connection: GroupedConnection, coordinator_id: str, crons: CronRuns, tenant: str | None = None
    ) -> None:
        """`crons`: records what they have begun. `tenant`: what belongs to others is not there for whoever reads; None:
        everything is."""
        self._connection = connection
        self._coordinator_id = coordinator_id
        self._crons = crons
        self._tenant = tenant
        self._run = connection.run
        self._keys = GatewayKeys(coordinator_id)

    def of(self, tenant: str) -> Records:
        """These records as a tenant sees them."""
        return Records(self._connection, self._coordinator_id, self._crons, tenant)

    def _seen(self, kind: type[R], stored: bytes | None) -> R | None:
        """A record, if there is one that may be seen; what is none of ours counts as none."""
        if stored is None:
            return None
        try:
            record = msgspec.json.decode(stored, type=kind)
        except msgspec.DecodeError:
            return None
        return record if self._tenant in (None, record.tenant) else None

    # ---- assistants ----

    async def assistants(self) -> list[AssistantRecord]:
        """Those that clients have created, in no order."""
        [found] = await self._run(("HVALS", self._keys.assistants))
        return [one for stored in found if (one := self._seen(AssistantRecord, stored)) is not None]

    async def assistant(self, assistant_id: str) -> AssistantRecord | None:
        [stored] = await self._run(("HGET", self._keys.assistants, assistant_id))
        return self._seen(AssistantRecord, stored)

    async def put_assistant(self, assistant: AssistantRecord, *, is_new: bool = False) -> bool:
        """Makes this version the one that is used. With `is_new`, only if there is no assistant of that id; returns
        whether it has."""
        write = "HSETNX" if is_new else "HSET"
        key, stored = self._keys.assistants, msgspec.json.encode(assistant)
        [written] = await self._run((write, key, assistant.assistant_id, stored))
        return bool(written)

    async def add_version(self, assistant: AssistantRecord) -> bool:
        """Keeps a version. Returns whether there was none of that number."""
        key = self._keys.versions(assistant.assistant_id)
        [written] = await self._run(("HSETNX", key, assistant.version, msgspec.json.encode(assistant)))
        return bool(written)

    async def versions(self, assistant_id: str) -> list[AssistantRecord]:
        """The versions of an assistant, the newest first."""
        [found] = await self._run(("HVALS", self._keys.versions(assistant_id)))
        versions = [one for stored in found if (one := self._seen(AssistantRecord, stored)) is not None]
        return sorted(versions, key=lambda each: each.version, reverse=True)

    async def delete_assistant(self, assistant_id: str) -> None:
        await self._run(("HDEL", self._keys.assistants, assistant_id), ("DEL", self._keys.versions(assistant_id)))

    # ---- threads ----

    async def thread(self, thread_id: str) -> ThreadRecord | None:
        return self._seen(ThreadRecord, await self._thread(thread_id))

    async def _thread(self, thread_id: str) -> bytes | None:
        [stored] = await self._run(("HGET", self._keys.threads, thread_id))
        if stored is None:
            await self._crons.look(None)
            [stored] = await self._run(("HGET", self._keys.threads, thread_id))
        return cast("bytes | None", stored)

    async def add_thread(self, thread: ThreadRecord) -> bool:
        """Records a new thread, and returns whether there was none of its id."""
        return await self._put_thread(b"", thread)

    async def change_thread(self, thread_id: str, **changes: Any) -> ThreadRecord | None:
        """Gives a thread, which is used now, other values; `metadata` are added to those that it has. What others
        change at the same time stays. Returns None: there is no such thread."""
        while True:
            stored = await self._thread(thread_id)
            if stored is None or (thread := self._seen(ThreadRecord, stored)) is None:
                return None
            metadata = {**thread.metadata, **changes.get("metadata", {})}
            changed = replace(thread, **{**changes, "metadata": metadata, "updated_at": datetime.now(UTC)})
            if await self._put_thread(stored, changed):
                return changed

    async def _put_thread(self, before: bytes, thread: ThreadRecord) -> bool:
        keys = (self._keys.threads, self._keys.recent, self._keys.expiring)
        expires = expires_at(thread)
        [written] = await self._run((
            "EVALSHA", name_of(PUT_THREAD), 3, *keys, thread.thread_id, before, msgspec.json.encode(thread),
            _ms(thread.updated_at), "" if expires is None else _ms(expires),
        ))  # fmt: skip
        return bool(written)

    async def delete_thread(self, thread_id: str) -> None:
        """Forgets a thread and its runs."""
        await self._run(
            ("DEL", self._keys.runs(thread_id), self._keys.crons(thread_id)),
            ("ZREM", self._keys.recent, thread_id),
            ("ZREM", self._keys.expiring, thread_id),
            ("HDEL", self._keys.threads, thread_id),
        )

    async def threads(self) -> AsyncIterator[ThreadRecord]:
        """All of them, those first that have changed last."""
        await self._crons.look(None)
        start = 0
        while True:
            [ids] = await self._run(("ZREVRANGE", self._keys.recent, start, start + PAGE - 1))
            if not ids:
                return
            [found] = await self._run(("HMGET", self._keys.threads, *ids))
            for stored in found:
                if thread := self._seen(ThreadRecord, stored):
                    yield thread
            start += PAGE

    async def expired(self, each_s: float) -> list[str]:
        """Threads whose time seems to be over, for one of the gateways each `each_s` seconds; for others none. What is
        no id is dropped."""
        [is_its_turn] = await self._run(("SET", self._keys.sweep, 1, "NX", "PX", int(each_s * 1000)))
        if not is_its_turn:
            return []
        now_ms = _ms(datetime.now(UTC))
        [found] = await self._run(("ZRANGEBYSCORE", self._keys.expiring, "-inf", now_ms, "LIMIT", 0, PAGE))
        ids = {member: member.decode(errors="replace") for member in found}
        if foreign := [member for member, thread_id in ids.items() if thread_id.encode() != member]:
            await self._run(("ZREM", self._keys.expiring, *foreign))
        return [thread_id for member, thread_id in ids.items() if member not in foreign]

    async def put_off(self, thread_id: str, until: datetime | None) -> None:
        """Looks at a thread again then, whether its time is over; None: when it was used again."""
        if until is None:
            await self._run(("ZREM", self._keys.expiring, thread_id))
        else:
            await self._run(("ZADD", self._keys.expiring, _ms(until), thread_id))

    # ---- runs ----

    async def runs(self, thread_id: str) -> list[RunRecord]:
        """The runs of a thread, the newest first. Those that its crons have begun lately are recorded now."""
        await self._crons.look(thread_id)
        [found] = await self._run(("HVALS", self._keys.runs(thread_id)))
        runs = [run for stored in found if (run := self._seen(RunRecord, stored)) is not None]
        return sorted(runs, key=lambda run: run.created_at, reverse=True)

    async def run_ids(self, thread_id: str) -> set[str]:
        """The ids of all runs of a thread, whoever may see them. Those that its crons have begun lately are recorded
        now."""
        await self._crons.look(thread_id)
        [found] = await self._run(("HKEYS", self._keys.runs(thread_id)))
        return {run_id.decode(errors="replace") for run_id in found}

    async def run(self, thread_id: str, run_id: str) -> RunRecord | None:
        [stored] = await self._run(("HGET", self._keys.runs(thread_id), run_id))
        if stored is None:
            await self._crons.look(thread_id)
            await self._crons.look(None)
            [stored] = await self._run(("HGET", self._keys.runs(thread_id), run_id))
        return self._seen(RunRecord, stored)

    async def put_runs(self, *runs: RunRecord) -> None:
        """Writes runs of one thread, all or none."""
        key = self._keys.runs(runs[0].thread_id)
        fields = [part for run in runs for part in (run.run_id, msgspec.json.encode(run))]
        expiry = [("PEXPIRE", key, TEMPORARY_MS)] if runs[0].is_temporary else []
        await self._run(("HSET", key, *fields), *expiry)

    async def note_end(self, run: RunRecord) -> bool:
        """Writes a run that has ended, unless it was deleted meanwhile, or answered, and so ended before. Returns
        whether it has."""
        key = self._keys.runs(run.thread_id)
        [written] = await self._run(("EVALSHA", name_of(END_RUN), 1, key, run.run_id, msgspec.json.encode(run)))
        return bool(written)

    async def claim_answers(self, names: Sequence[str]) -> bool:
        """Takes these answers, for one of those who give some to the same question at the same time: all of them, or
        none. Returns whether they are taken now."""
        keys = [self._keys.answer(name) for name in names]
        taken = await self._run(*(("SET", key, 1, "NX", "PX", CLAIMED_MS) for key in keys)) if keys else []
        if not all(taken):
            await self.forget_answers([name for name, is_ours in zip(names, taken, strict=True) if is_ours])
        return all(taken)

    async def is_taken(self, names: Sequence[str]) -> bool:
        """Whether somebody has taken one of these answers."""
        [count] = await self._run(("EXISTS", *(self._keys.answer(name) for name in names))) if names else [0]
        return bool(count)

    async def forget_answers(self, names: Sequence[str]) -> None:
        """Leaves answers to others that were taken, and not given."""
        if names:
            await self._run(("DEL", *(self._keys.answer(name) for name in names)))

    async def delete_run(self, run: RunRecord) -> None:
        await self._run(("HDEL", self._keys.runs(run.thread_id), run.run_id))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
