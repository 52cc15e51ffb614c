"""Reads a coordinator's own records, some of which may have been written by anybody with write access to Redis.

A record that the coordinator has not sealed counts as missing. Such a record of an open task is removed on loading, and
its remains go to the quarantine: nothing that somebody else wrote runs, and the client is told that its task is lost. A
record sealed with an unknown key stays as it is and does not run, since the secret may be the wrong one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from msgspec import Raw

from coordinator.dead_letters import recall_letters
from coordinator.open_questions import asking
from coordinator.rules import recall
from coordinator.schedules import recall_schedules
from coordinator.state import CoordinatorState, DeadLetter, Found
from coordinator.strategies import recall_strategies
from coordinator.usage import recall_quotas
from core.dead_letters import origin_of, submitted_in, successors_of
from core.errors import BadSchedule, BadTask, ForgedRecord, PeerError, UnknownKey
from core.ports import Command
from core.quotas import Quota, stored_quota
from core.redis_backend.keys import CoordinatorKeys
from core.runtime.agent_loop import AgentLoop
from core.schedules import Schedule
from core.sealing import Sealed
from core.stored import number_in, shown
from core.tasks import NULL, Task, TaskStatus

__all__ = ["PAGE", "Records"]

log = logging.getLogger(__name__)

#: Number of records that are read, or swept, at once.
PAGE = 500
NOT_SEALED = ForgedRecord("this coordinator did not seal it, so it is not trusted")
#: Number of ids of replays of one task that are looked up at once.
SUCCESSORS = 8


class Stored(NamedTuple):
    """What is stored under the id of a task."""

    name: bytes
    record: bytes = b""  #: without its seal; if the seal cannot be verified, with it
    task: Task | None = None  #: None: there is none, or the record cannot be trusted
    forged: bool = False
    foreign: bool = False  #: sealed with an unknown key, or in the format of another release: it stays as it is


class Records:
    """The records of one coordinator, read over the connection of its loop."""

    def __init__(self, keys: CoordinatorKeys, loop: AgentLoop) -> None:
        self._keys = keys
        self._loop = loop
        self._seals = loop.setup.signing.seals

    async def load(self, state: CoordinatorState) -> None:
        """Reads the open tasks in the order of their submission, the ended children of waiting tasks, the dead
        letters, and the schedules. Raises StateConflict if the key of the records is of another type."""
        # The length does not matter. The command fails if the key is of another type, and then no task can be accepted.
        await self._loop.committer.look_up(("HSTRLEN", self._keys.tasks, ""))
        if self._seals.rotating:
            await self._seal_anew(self._keys.tasks, Sealed.TASK)
            await self._seal_anew(self._keys.submissions, Sealed.SUBMISSION)
            await self._seal_anew(self._keys.schedules, Sealed.SCHEDULE)
            await self._seal_anew(self._keys.quotas, Sealed.QUOTA)
        await self._index_anew()
        [ids, listed, order, strategies] = await self._loop.committer.look_up(
            ("ZRANGE", self._keys.open, 0, -1), ("ZRANGE", self._keys.questions, 0, -1),
            ("HGET", self._keys.header, "thread_order"), ("HGET", self._keys.header, "strategies"),
        )  # fmt: skip
        state.thread_order = number_in(order)
        recall_strategies(state, strategies)
        found = await self._tasks(ids)
        tasks = [stored.task for stored in found if stored.task and not stored.task.status.ended]
        settled = [stored for stored in found if stored.task is None or stored.task.status.ended]
        await self._put_right(self._keys.open, settled)
        state.foreign = frozenset(stored.name.decode() for stored in found if stored.foreign)
        digests = await self._digests(tasks)
        # The time after all that was read: a distributor is not silent because reading took long.
        recall(state, tasks, digests, int(asyncio.get_running_loop().time() * 1000))
        recall_quotas(state, await self._quotas(), self._loop.setup.clock.now_ms())
        await self._list_questions_anew(state, listed)
        await self._load_letters(state)
        await self._load_schedules(state)

    async def _load_schedules(self, state: CoordinatorState) -> None:
        """Reads the schedules. What somebody else wrote there is deleted, and its beginning quarantined; what is sealed
        with an unknown key stays, and opens nothing."""
        [names] = await self._loop.committer.look_up(("HKEYS", self._keys.schedules))
        schedules: list[Schedule] = []
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            [records] = await self._loop.committer.look_up(("HMGET", self._keys.schedules, *page))
            forged: list[bytes] = []
            for name, sealed in zip(page, records, strict=True):
                try:
                    record = self._seals.opened(Sealed.SCHEDULE, name.decode(), sealed or b"")
                    schedules.append(Schedule.from_json(record))
                except (UnknownKey, BadSchedule) as error:
                    log.warning(
                        "schedule %s is kept, but opens nothing: %s", shown(name), error,
                        extra={"action": "schedule_foreign"},
                    )  # fmt: skip
                except (ForgedRecord, UnicodeDecodeError):
                    self._loop.inbox.put_aside_record(self._keys.schedules, name, sealed or b"", NOT_SEALED)
                    forged.append(name)
            if forged:
                await self._loop.committer.commit([("HDEL", self._keys.schedules, *forged)], {})
        recall_schedules(state, schedules)

    async def _quotas(self) -> dict[str, Quota]:
        """The stored quotas. One that this coordinator has not sealed limits nobody, and goes to the quarantine."""
        [flat] = await self._loop.committer.look_up(("HGETALL", self._keys.quotas))
        found: dict[str, Quota] = {}
        for name, sealed in zip(flat[::2], flat[1::2], strict=True):
            try:
                quota = stored_quota(self._seals.opened(Sealed.QUOTA, name.decode(), sealed))
            except (PeerError, UnicodeDecodeError) as error:
                why = error if isinstance(error, PeerError) else ForgedRecord("this is no name of a quota")
                self._loop.inbox.put_aside_record(self._keys.quotas, name, sealed, why)
                continue
            if quota is not None:
                found[name.decode()] = quota
        return found

    async def _index_anew(self) -> None:
        """Adds records that are in no index to theirs: to that of the open tasks, or that of the ended ones. They are
        missing if an index was deleted, or if a commit could not write to it because its key was of another type."""
        kept, opened, ended = await self._loop.committer.look_up(
            ("HLEN", self._keys.tasks), ("ZCARD", self._keys.open), ("ZCARD", self._keys.ended)
        )
        if kept <= opened + ended:
            return
        [names] = await self._loop.committer.look_up(("HKEYS", self._keys.tasks))
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            scores = await self._loop.committer.look_up(
                *(("ZSCORE", index, name) for name in page for index in (self._keys.open, self._keys.ended))
            )
            each = zip(page, scores[::2], scores[1::2], strict=True)
            lost = [name for name, opened_at, ended_at in each if opened_at is None and ended_at is None]
            commands = [self._index_of(stored.task) for stored in await self._tasks(lost) if stored.task]
            if commands:
                await self._loop.committer.commit(commands, {})
                log.warning(
                    "%d tasks were in no index, and were added to theirs",
                    len(commands),
                    extra={"action": "tasks_listed_anew"},
                )

    def _index_of(self, task: Task) -> Command:
        index = self._keys.ended if task.status.ended else self._keys.open
        moment = task.completed_at or task.created_at
        return ("ZADD", index, int(moment.timestamp() * 1000), task.task_id)

    async def _list_questions_anew(self, state: CoordinatorState, listed: Sequence[bytes]) -> None:
        """Makes the index of the tasks that ask something, in which these are `listed`, what their records say."""
        known, names = asking(state), {*listed}
        missing = [(asked_ms, task_id) for task_id, asked_ms in known.items() if task_id.encode() not in names]
        surplus = [name for name in listed if name.decode(errors="replace") not in known]
        commands: list[Command] = []
        if missing:
            commands.append(("ZADD", self._keys.questions, *(part for listing in missing for part in listing)))
        if surplus:
            commands.append(("ZREM", self._keys.questions, *surplus))
        if commands:
            await self._loop.committer.commit(commands, {})

    async def _digests(self, tasks: Iterable[Task]) -> dict[str, str]:
        """The digests of the ended children of waiting tasks. A continuation does not trust a record without one."""
        children = [child for task in tasks if task.status is TaskStatus.WAITING for child in task.awaited]
        found = await self._tasks([child.encode() for child in children])
        return {
            stored.task.task_id: hashlib.sha256(stored.record).hexdigest()
            for stored in found
            if stored.task and stored.task.status.ended
        }

    async def _load_letters(self, state: CoordinatorState) -> None:
        """Reads the dead letters, the oldest first, and the sizes of the stored messages."""
        [ids, entries] = await self._loop.committer.look_up(
            ("ZRANGE", self._keys.dead, 0, -1), ("HKEYS", self._keys.submissions)
        )
        found = await self._tasks(ids)
        await self._put_right(self._keys.dead, [stored for stored in found if stored.task is None])
        state.foreign |= {stored.name.decode() for stored in found if stored.foreign}
        if state.foreign:
            log.warning(
                "%d tasks are sealed with an unknown key, or come from another release: they are kept, but"
                " do not run. Has A2A_TOKEN_SECRET changed? Then set the previous one as A2A_PREVIOUS_SECRET.",
                len(state.foreign), extra={"action": "records_foreign", "records": len(state.foreign)},
            )  # fmt: skip
        letters = {}
        for stored in found:
            if stored.task:
                died = stored.task.completed_at
                letters[stored.task.task_id] = DeadLetter(
                    int(died.timestamp() * 1000) if died else 0, len(stored.record), stored.task.submission
                )
        sizes: dict[str, int] = {}
        for start in range(0, len(entries), PAGE):
            page = entries[start : start + PAGE]
            lengths = await self._loop.committer.look_up(
                *(("HSTRLEN", self._keys.submissions, entry) for entry in page)
            )
            sizes |= zip((entry.decode(errors="replace") for entry in page), lengths, strict=True)
        recall_letters(state, letters, sizes)

    async def _tasks(self, ids: Sequence[bytes]) -> list[Stored]:
        """What is stored under each of these ids, in their order."""
        found: list[Stored] = []
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            [records] = await self._loop.committer.look_up(("HMGET", self._keys.tasks, *page))
            found += map(self._opened, page, records)
        return found

    def _opened(self, name: bytes, sealed: bytes | None) -> Stored:
        if sealed is None:
            return Stored(name)
        try:
            record = self._seals.opened(Sealed.TASK, name.decode(), sealed)
        except UnknownKey:
            return Stored(name, foreign=True)
        except (ForgedRecord, UnicodeDecodeError):
            return Stored(name, sealed, forged=True)
        try:
            return Stored(name, record, Task.from_json(record))
        except BadTask:
            return Stored(name, foreign=True)

    async def _put_right(self, index: str, found: Sequence[Stored]) -> None:
        """Removes ids from an index to which they do not belong, and deletes forged records, whose beginning is kept in
        the quarantine."""
        misplaced = [stored for stored in found if not stored.foreign]
        for start in range(0, len(misplaced), PAGE):
            page = misplaced[start : start + PAGE]
            forged = [stored for stored in page if stored.forged]
            for stored in forged:
                self._loop.inbox.put_aside_record(self._keys.tasks, stored.name, stored.record, NOT_SEALED)
            commands: list[Command] = [("ZREM", index, *(stored.name for stored in page))]
            if forged:
                commands.append(("HDEL", self._keys.tasks, *(stored.name for stored in forged)))
            await self._loop.committer.commit(commands, {})
        if misplaced:
            log.warning(
                "removed %d records that were missing or forged, or of ended tasks", len(misplaced),
                extra={"action": "records_put_right", "index": index, "records": len(misplaced)},
            )  # fmt: skip

    async def _seal_anew(self, key: str, kind: Sealed) -> None:
        """Seals records with the new root secret that only the previous one verifies, while the secret is changed."""
        cursor: Any = 0
        while True:
            [reply] = await self._loop.committer.look_up(("HSCAN", key, cursor, "COUNT", PAGE))
            cursor, flat = reply
            anew: list[bytes] = []
            for name, sealed in zip(flat[::2], flat[1::2], strict=True):
                try:
                    record = self._seals.opened_anew(kind, name.decode(), sealed)
                except (PeerError, UnicodeDecodeError):
                    continue
                anew += [name, record] if record else []
            if anew:
                await self._loop.committer.commit([("HSET", key, *anew)], {})
            if int(cursor) == 0:
                return

    async def found(self, task_ids: Sequence[str]) -> tuple[Found, ...]:
        """What is stored about tasks that a client wants to replay, in the order of `task_ids`."""
        messages: dict[str, dict[str, Raw]] = {}  # entry id -> its tasks, so that no message is read twice
        return tuple([await self._found(task_id, messages) for task_id in task_ids])

    async def _found(self, task_id: str, messages: dict[str, dict[str, Raw]]) -> Found:
        [(_, record, task, *_)] = await self._tasks([task_id.encode()])
        if task is None:
            return Found(task_id)
        if task.submission and task.submission not in messages:
            messages[task.submission] = await self._message(task.submission)
        original = messages.get(task.submission or "", {}).get(origin_of(task), NULL)
        latest, start = None, 0
        while True:
            ids = successors_of(task, start, SUCCESSORS)
            stored = await self._tasks([successor_id.encode() for successor_id in ids])
            for next_id, successor in zip(ids, stored, strict=True):
                if successor.task is None:
                    return Found(task_id, record, original, next_id, latest)
                latest = successor.record
            start += SUCCESSORS

    async def _message(self, entry: str) -> dict[str, Raw]:
        """The tasks in a stored message, by id, each as its client wrote it; empty if the message cannot be trusted."""
        [sealed] = await self._loop.committer.run(("HGET", self._keys.submissions, entry))
        try:
            return submitted_in(self._seals.opened(Sealed.SUBMISSION, entry, sealed)) if sealed else {}
        except PeerError as error:
            self._loop.inbox.put_aside_record(self._keys.submissions, entry.encode(), sealed, error)
            return {}
