"""The client of a hierarchy: submits tasks, and is told how they ended.

    async with AgentClient() as client:
        ids = await client.submit_many.aio([Task(task_type="word_count", payload=text) for text in texts])
        async for task in client.as_completed(ids):
            print(task.task_id, task.result)

A client speaks to its coordinator over a signed link of its own and reads a reply stream of its own. A task that was
accepted is recorded, so a client that dies and comes back can ask by id how it ended; submitting an id twice is one
task. While Redis is away, every call waits as long as it was asked to and continues by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any, Self

import orjson
from msgspec import Raw

from core.a2a_messaging import A2AMessage
from core.agent_event import AgentEvent
from core.backoff import Backoff
from core.client.each import Each
from core.client.endings import Endings, Listener
from core.client.hierarchy_events import hierarchy_events
from core.client.look_up import LOOK_UP_S, LOOKED_UP_AT_ONCE, LookUp, Replicas
from core.client.requests import Refused, Requests
from core.client.schedules import ScheduleUser
from core.client.server import Server, configured_server
from core.client.waiting import WaitingReason
from core.config.settings import A2ASecrets, RedisConfig
from core.config.sources import load
from core.errors import (
    BadTask,
    MalformedMessage,
    PeerError,
    TaskFailed,
    TaskLost,
    TaskRefused,
    TaskTimeout,
    TransportDown,
    UnknownTask,
    WorldError,
)
from core.operations.event_feed import Position, Wanted
from core.redis_backend.clock import ServerClock, monotonic_s
from core.redis_backend.keys import CoordinatorKeys
from core.reports import answer_in
from core.roles import Action, Address, Role, asker_of, check_permitted
from core.runtime.portal import keep_inherited, operation, refuse_in_a_loop
from core.runtime.tracing import sending
from core.signing import KeyRing, ReplayWindow, Signed
from core.tasks import Task, checked
from core.trace_context import TraceContext

__all__ = ["AgentClient"]

log = logging.getLogger(__name__)

BLOCK_MS = 2000
#: Bytes of replies after which those that were read are deleted; earlier when no more come.
TRIMMED_BYTES = 256 * 1024


@dataclass(slots=True)
class Search:
    """What a call that waits for tasks has found out about them."""

    strange: list[str]  #: the tasks to ask the coordinator about
    looked_s: float = field(default_factory=monotonic_s)

    def suspect(self, task_ids: set[str]) -> None:
        """Adds tasks that may be lost."""
        self.strange += [task_id for task_id in task_ids if task_id not in self.strange]


class AgentClient(ScheduleUser):
    """A client of one coordinator. Use it as a context manager, in a script or in a coroutine; or `open` and `close`.

    Arguments that are left out come from the environment and `.env`, as for the agents. `client_id` decides which tasks
    the client sees and changes: those that a client of that name has submitted, in this program or another, and those
    shared with it. As `operator:NAME` it is an operator, which sees and changes all tasks. Each client that is opened
    has a link and a reply stream of its own.

    Raises ConfigError: a setting is missing or malformed. Every call may also raise EventLoopError, when it would block
    or hang where it is made; ConfigError and TransportDown, when it is the first call and has to open the client.
    """

    def __init__(
        self,
        redis_config: RedisConfig | None = None,
        a2a_config: A2ASecrets | None = None,
        coordinator_id: str | None = None,
        client_id: str | None = None,
        server: Server | None = None,
    ) -> None:
        """`server`: where the hierarchy is, if it is not in Redis: `LocalHierarchy` makes such clients."""
        self._named = client_id or load().client_id
        coordinator_id = coordinator_id or load().coordinator_id
        self._coordinator = Address.of(Role.COORDINATOR, coordinator_id)
        self._keys = CoordinatorKeys(coordinator_id)
        self._server = server or configured_server(redis_config, a2a_config, asker_of(self._named))
        self._begin_session()

    def _begin_session(self) -> None:
        """Forgets everything: nothing is known yet, and nothing is open."""
        self._process = os.getpid()
        self._me = _asker(self._named)
        self._chain = (self._coordinator, self._me)
        self._clock = ServerClock()
        self._signing: KeyRing | None = None
        self._look: LookUp | None = None
        self._requests: Requests | None = None
        self._waiting: WaitingReason | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()  # several may be the first to use it
        self._last, self._window = b"0", ReplayWindow()
        self._endings = Endings()
        self._replicas = Replicas(self._server.wait_replicas, self._keys.mark(self._me))
        self._away = ""  # why Redis cannot be reached; empty: it can
        self._replayed: dict[str, str] = {}  # dead letter -> the task it runs again as
        self._listings, self._maybe_removed, self._told_keys = {}, set(), {}
        self._forget_streams()

    def _leave_loop(self, *, forked: bool) -> None:
        """On another loop the client opens again. In a forked process it does so as a session of its own, since the
        coordinator would hear only the later of two senders with one id."""
        if forked:
            keep_inherited(self._requests, self._reader, self._waiting, self._followed)
            self._begin_session()
        self._reader, self._opening = None, asyncio.Lock()
        self._forget_streams()

    @property
    def client_id(self) -> str:
        """The id with the session, `NAME~SESSION`, by which the coordinator tells clients of one name apart."""
        return self._me.agent_id

    # ---- opening and closing ----

    @operation
    async def open(self) -> None:
        """Connects; does nothing when the client is open.

        Raises TransportDown at once when there is no Redis; ConfigError when a setting is wrong, or when the server
        refuses this user something that a client needs."""
        async with self._opening:
            if self._is_open:
                return
            await self._server.reach(self._chain)
            self._signing = self._server.keys(self._chain)
            self._requests = Requests(self._server, self._coordinator, self._me, self._signing, self._clock)
            self._waiting = WaitingReason(self._server, self._coordinator.agent_id)
            await self._requests.open()
            above = self._server.keys_of_coordinator(self._coordinator)
            self._look = LookUp(self._me, self._keys, self._requests, self._endings, self._replicas, above)
            self._reader = asyncio.get_running_loop().create_task(self._read(), name=str(self._me))

    @operation
    async def close(self) -> None:
        """Disconnects. Tasks go on, and another client can ask by id how they ended."""
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._requests:
            await self._requests.close()

    def __enter__(self) -> Self:
        refuse_in_a_loop("use `async with`.")
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.open.aio()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close.aio()

    # ---- what a program asks ----

    @operation
    async def submit(self, task: Task, timeout_s: float = 30.0) -> str:
        """Submits one task; returns its id once the coordinator has recorded it.

        Raises TaskRefused, with the reason: nothing was kept. BadTask: the payload is no JSON or too large.
        TaskTimeout: there was no answer within `timeout_s`. TransportDown: Redis was away until then. After either,
        submitting the same task again is safe. ServerRefused: Redis is full, read-only or cannot write to its disk.
        PeerError: the coordinator rejected the message, most likely because the secrets differ.
        """
        return (await self._submit([task], timeout_s))[0]

    @operation
    async def submit_many(self, tasks: Sequence[Task], timeout_s: float = 60.0) -> list[str]:
        """Submits tasks in few messages; returns their ids, in order, once all are recorded.

        Raises as `submit`. After TaskRefused the other tasks are accepted all the same, and `result` works for them."""
        return await self._submit(tasks, timeout_s)

    @operation
    async def result(self, task_id: str, timeout_s: float | None = None) -> Task:
        """The ended task, whoever submitted it: look at its `status`, `result` and `error`.

        With `timeout_s=None` it waits as long as it takes, also while Redis is away or nobody can run the task; one
        line in the log says why. Raises TaskTimeout: the task has not ended within `timeout_s`. UnknownTask: it was
        never submitted here, its record has expired, or it belongs to another client. TaskLost: it was accepted, and
        Redis lost it; submitting it again is safe. PeerError: as `submit`.
        """
        async for task in self._as_completed([task_id], timeout_s):
            return task
        raise UnknownTask(task_id)

    @operation
    async def value(self, task_id: str, timeout_s: float | None = None) -> Any:
        """The result of a completed task. Raises TaskFailed when the task ended in another way; else as `result`."""
        task = await self.result.aio(task_id, timeout_s)
        if task.status != "completed":
            error = task.error
            raise TaskFailed(
                task_id,
                task.status,
                error.type if error else "",
                error.message if error else "",
                error.traceback if error else "",
            )
        return task.result

    @operation
    async def cancel(self, task_id: str, timeout_s: float = 30.0) -> bool:
        """Cancels a task and everything that it has spawned. Returns True once the coordinator has recorded that;
        `result` then tells how the task ended. A task that has already ended stays as it is.

        Raises UnknownTask, TaskTimeout, TransportDown, ServerRefused, PeerError: see `result` and `submit`. Cancelling
        again is safe."""
        refused = await self._ask(Action.CANCEL_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
        return True

    @operation
    async def replay(self, task_id: str, timeout_s: float = 30.0) -> str:
        """Runs a dead letter again as it was submitted; returns the id of the new task, ORIGINAL.replayN.

        The new task has the idempotency key of the original, so that effects outside do not happen twice, and no
        deadline that has passed. Replaying the same dead letter again gives the same task.

        Raises TaskRefused: there is no such dead letter, or it cannot be replayed, and it stays as it is. TaskTimeout,
        TransportDown, ServerRefused, PeerError: as `submit`."""
        refused = await self._ask(Action.REPLAY_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise TaskRefused(task_id, refused[0].reason)
        return self._replayed[task_id]

    @operation
    async def purge_dead_letter(self, task_id: str, timeout_s: float = 30.0) -> bool:
        """Removes a task from the dead letters. Its record is then forgotten like that of any other ended task. Returns
        True: it is not there any more.

        Raises TaskRefused: there is no such dead letter. TaskTimeout, TransportDown, ServerRefused, PeerError: as
        `submit`."""
        refused = await self._ask(Action.PURGE_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise TaskRefused(task_id, refused[0].reason)
        return True

    def as_completed(self, task_ids: Iterable[str], timeout_s: float | None = None) -> Each[Task]:
        """Ended tasks in the order in which they end, each once. Iterate over it with `for` or with `async for`.

        The iteration raises TaskTimeout when nothing has ended for `timeout_s`; UnknownTask and TaskLost as `result`.
        Afterwards, calling it again for the remaining tasks works.
        """
        return Each(self._as_completed(list(task_ids), timeout_s), self)

    def events(
        self, after: str | None = None, types: Iterable[str] = (), task: str | None = None, root: str | None = None,
        agent: str | None = None,
    ) -> Each[AgentEvent]:  # fmt: skip
        """What happens in the hierarchy, while it happens, each event once. Iterate with `for` or with `async for`: it
        does not end, and waits while Redis is away.

        It begins behind the event with the id `after`, with "0" at the oldest that is kept, else when the iteration
        does. `types` are names of EventType, `task` and `root` (that and all below it) ids of tasks, `agent` an
        agent's. `events_missed` stands for those that were trimmed away unread. Raises BadEvent: there is no such type
        or id. The iteration raises ServerRefused: this user may not read them."""
        begin, wanted = Position.after(after) if after else None, Wanted.of(types, task, root, agent)
        return Each(hierarchy_events(self._reached, self._coordinator, begin, wanted), self)

    # ---- how ----

    @property
    def _is_open(self) -> bool:
        return self._reader is not None and not self._reader.done()

    @property
    def _looking(self) -> LookUp:
        assert self._look  # it is open
        return self._look

    async def _submit(self, tasks: Sequence[Task], timeout_s: float) -> list[str]:
        tasks = [checked(task) for task in tasks]
        ids = [task.task_id for task in tasks]
        new = {task_id for task_id in ids if task_id not in self._endings}  # others may wait for the rest
        self._endings.expect(ids)
        with sending(tasks) as (sent, trace):
            refused = await self._ask(Action.SUBMIT_TASK, (task.to_json() for task in sent), timeout_s, trace)
        for refusal in refused:
            if refusal.task_id in new:
                self._endings.forget(refusal.task_id)
        declined = {refusal.task_id for refusal in refused}
        self._endings.confirm(task_id for task_id in ids if task_id not in declined)
        if refused:
            raise TaskRefused(refused[0].task_id, refused[0].reason, {each.task_id: each.reason for each in refused})
        return ids

    async def _reached(self) -> Server:
        """Where the hierarchy is; the client is open then."""
        if not self._is_open:
            await self.open.aio()
        return self._server

    async def _ask(
        self, action: Action, items: Iterable[bytes], timeout_s: float, trace: TraceContext | None = None
    ) -> Refused:
        await self._reached()
        assert self._requests
        return await self._requests.ask(action, items, timeout_s, trace)

    async def _as_completed(self, task_ids: Sequence[str], timeout_s: float | None) -> AsyncGenerator[Task, None]:
        await self._reached()
        search = Search([task_id for task_id in dict.fromkeys(task_ids) if task_id not in self._endings])
        self._endings.expect(search.strange)
        listener = self._endings.listen(task_ids)
        await self._looking.look(search.strange)
        news_s = monotonic_s()
        try:
            while listener.waiting or listener.ended:
                while listener.ended:
                    news_s = monotonic_s()
                    yield listener.ended.popleft()
                if listener.waiting:
                    left_s = inf if timeout_s is None else news_s + timeout_s - monotonic_s()
                    if left_s <= 0:
                        await self._look_before_leaving(listener)
                        if listener.ended:
                            continue
                        raise TaskTimeout(self._not_ended(len(listener.waiting), timeout_s))
                    await self._wait_for(listener, search, left_s)
        finally:
            self._endings.leave(listener)

    async def _wait_for(self, listener: Listener, search: Search, left_s: float) -> None:
        """Returns when there may be news, after at most LOOK_UP_S or `left_s`. Reads the records when that is due."""
        now_s = monotonic_s()
        if now_s - search.looked_s >= LOOK_UP_S:
            search.suspect(await self._looking.look(list(islice(listener.waiting, LOOKED_UP_AT_ONCE))))
            if self._waiting:
                await self._waiting.tell(next(iter(listener.waiting), None))
            if not listener.ended:  # otherwise the next ones at once
                search.looked_s = now_s
        search.strange = [task_id for task_id in search.strange if task_id in listener.waiting]
        if search.strange and await self._follow(listener, search.strange, min(left_s, LOOK_UP_S)):
            search.strange = []
        elif not listener.ended:
            await listener.hear(min(left_s, search.looked_s + LOOK_UP_S - now_s))

    async def _look_before_leaving(self, listener: Listener) -> None:
        """Looks once more, for a caller who asks repeatedly, each time for less than two looks take. Raises as
        `_follow`."""
        if suspects := await self._looking.look(list(islice(listener.waiting, LOOKED_UP_AT_ONCE))):
            await self._follow(listener, sorted(suspects), LOOK_UP_S)

    def _not_ended(self, count: int, timeout_s: float | None) -> str:
        away = f" Redis is away: {self._away}." if self._away else ""
        return f"{count} task(s) have not ended within {timeout_s:g} s; they go on.{away}"

    async def _follow(self, listener: Listener, task_ids: list[str], timeout_s: float) -> bool:
        """Asks the coordinator to report the end of tasks that somebody else submitted, or that have no record. Returns
        whether it has answered. Its answer proves that it has read everything sent earlier, so a task that it does not
        know was lost. Raises UnknownTask; TaskLost when this client knows that the task was accepted."""
        try:
            refused = await self._ask(Action.WATCH_TASK, map(orjson.dumps, task_ids), timeout_s)
        except (TaskTimeout, WorldError):
            return False
        gone = dict.fromkeys(refusal.task_id for refusal in refused if refusal.task_id in listener.waiting)
        lost = [task_id for task_id in gone if self._endings.is_confirmed(task_id)]
        for task_id in gone:
            self._endings.forget(task_id)
            self._looking.forget(task_id)
        self._endings.confirm(task_id for task_id in task_ids if task_id not in gone)
        if lost:
            raise TaskLost(*lost)
        if gone:
            raise UnknownTask(
                f"no task {next(iter(gone))!r}: never submitted here, or ended longer ago than its retention"
            )
        return True

    # ---- the reply stream ----

    async def _read(self) -> None:
        """Takes the replies until it is cancelled. One line in the log says that Redis is away, and one that it is
        back. Whatever keeps Redis from being read, even a wrong password, is treated as transient."""
        assert self._requests
        wire = self._server.connection(let_in=True)
        key = self._keys.replies(self._me)
        backoff = Backoff()
        untrimmed, trim_due = 0, True  # bytes that were read and not deleted
        try:
            while True:
                try:
                    if not wire.connected:
                        await wire.connect()
                        await self._requests.synchronise()
                        [kept] = await wire.exchange([("EXISTS", key)])
                        if not kept:
                            self._last = b"0"  # a stream that was created again may have lower ids
                    trim = [("XTRIM", key, "MINID", self._last)] if trim_due and self._last != b"0" else []
                    read = ("XREAD", "COUNT", 64, "BLOCK", BLOCK_MS, "STREAMS", key, self._last)
                    replies = await wire.exchange([*trim, read], timeout_s=BLOCK_MS / 1000 + 3)
                    if isinstance(replies[-1], Exception):
                        raise TransportDown(f"Redis refused a read: {replies[-1]}")
                    if replies[-1] and not self._replicas.confirmed(await wire.exchange(self._replicas.question())):
                        raise TransportDown(f"fewer than {self._replicas.count} replicas keep up with it")
                except TransportDown as error:
                    self._transport(f"{error}")
                    await asyncio.sleep(backoff.next(random.random()))
                    continue
                backoff.reset()
                self._transport("")
                entries = replies[-1][0][1] if replies[-1] else []
                untrimmed = (0 if trim_due else untrimmed) + sum(len(b"".join(fields)) for _, fields in entries)
                trim_due = untrimmed > (TRIMMED_BYTES if entries else 0)
                for entry_id, fields in entries:
                    self._last = entry_id
                    self._take(fields)
        finally:  # it is cancelled as well when its loop ends and nobody has closed the client
            await wire.close()
            await self._requests.close()

    def _transport(self, away: str) -> None:
        """Logs one line for each change, not for each attempt."""
        if bool(away) != bool(self._away):
            if away:
                log.warning("Redis is away: %s", away, extra={"action": "transport_down"})
            else:
                log.info("Redis is back", extra={"action": "transport_up"})
        self._away = away

    def _take(self, fields: list[bytes]) -> None:
        """Takes one reply. It is verified like every message; a bad one is dropped with a line in the log, and what it
        would have said is looked up."""
        assert self._signing
        try:
            signed = Signed.from_fields(fields)
            message = A2AMessage.opened(signed, self._signing)
            check_permitted(signed.sender.role, self._me.role, message.action)
            metadata = message.metadata
            self._window = self._window.take(metadata.incarnation, metadata.sequence_number, metadata.timestamp)
            if message.action == Action.TASK_ACCEPTED:
                self._on_accepted(message)
            else:
                for item in message.tasks:
                    self._on_result(item)
        except PeerError as error:
            log.warning("reply rejected: %s", error, extra={"action": "reply_rejected", "reason": error.reason})

    def _on_accepted(self, message: A2AMessage) -> None:
        answer = answer_in(message.payload)
        self._on_run_keys(message.tasks)
        self._replayed |= answer.replayed
        self._on_listed(answer.questions | answer.schedules)
        if self._requests:
            self._requests.answer(message.metadata.parent_request_id or "", answer.refused)

    def _on_result(self, item: Raw) -> None:
        try:
            task = Task.from_json(item)
        except BadTask as error:
            raise MalformedMessage(str(error)) from error
        self._endings.tell(task)


def _asker(client_id: str) -> Address:
    """The address of a new session of `NAME`, a client, or of `operator:NAME`; or of that which is named, as
    `NAME~SESSION`, and which one program at a time may use. Raises ConfigError."""
    asker = asker_of(client_id)
    return asker if asker.session else Address.of(asker.role, f"{asker.name}~{secrets.token_hex(4)}")
