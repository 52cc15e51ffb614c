"""The client of a hierarchy: submits tasks, and is told how they ended.

    async with AgentClient() as client:
        ids = await client.submit_many([Task(task_type="word_count", payload=text) for text in texts])
        async for task in client.as_completed(ids):
            print(task.task_id, task.result)

A client speaks to its coordinator over a signed link of its own and reads a reply stream of its own. A task that was
accepted is recorded; a client that dies and comes back asks for its end by id, and submitting an id twice is one task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self

import orjson

from core.a2a_messaging import A2AMessage
from core.config import A2AConfig, A2ASecrets, RedisConfig, load
from core.errors import (
    BadTask,
    MalformedMessage,
    PeerError,
    TaskFailed,
    TaskRefused,
    TaskTimeout,
    TransportDown,
    UnknownTask,
)
from core.ports import Command
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import CoordinatorKeys
from core.redis_client import Wire
from core.roles import Action, Address, Role, check_permitted
from core.runtime.completed import Completed
from core.runtime.endings import Endings
from core.runtime.outbox import MOST_ITEMS, Outbox, chunks
from core.runtime.portal import Resident, operation
from core.runtime.rejection import LATEST, rejection_of
from core.runtime.wiring import keys_for, redis_or_configured, secrets_or_configured, server_for
from core.signing import Keys, ReplayWindow, Signed
from core.step import Sending, Step
from core.tasks import Task, check_sizes

__all__ = ["AgentClient"]

log = logging.getLogger(__name__)

#: By request id: what was refused of it, once the coordinator has answered; and what it asks.
Answers = dict[str, asyncio.Future[list[dict[str, str]]]]
Parts = dict[str, list[bytes]]

BLOCK_MS = 2000
#: A task whose end nobody has told of is looked up after this long without news; what is lost is only the telling.
LOOK_UP_S = 5.0
#: How long the coordinator may say nothing before what it has not answered is sent again (one task all the same).
ANSWER_S = 5.0
#: How long it may say nothing before the client looks whether its message was rejected.
REJECTED_S = 0.5
BACKOFF_S, MOST_BACKOFF_S = 0.05, 2.0
#: Records asked for with one look: those of the tasks that were asked about first.
LOOKED_UP_AT_ONCE = 500
#: Messages of one submission that go out in one write.
MESSAGES_AT_ONCE = 4


class AgentClient(Resident):
    """A client of one coordinator. Use it as a context manager, in a script or in a coroutine; or `open` and `close`.

    What is left out comes from the environment and `.env`, as for the agents. `client_id` names its link and its reply
    stream; leave it out and it is one nobody else has. Raises ConfigError.
    """

    def __init__(
        self,
        redis_config: RedisConfig | None = None,
        a2a_config: A2ASecrets | None = None,
        coordinator_id: str | None = None,
        client_id: str | None = None,
    ) -> None:
        self._redis = redis_or_configured(redis_config)
        self.client_id = client_id or f"client-{secrets.token_hex(6)}"
        self._a2a = secrets_or_configured(a2a_config or A2AConfig(agent_id=self.client_id))
        coordinator_id = coordinator_id or load().coordinator_id
        self._coordinator = Address.of(Role.COORDINATOR, coordinator_id)
        self._me = Address.of(Role.CLIENT, self.client_id)
        self._chain = (self._coordinator, self._me)
        self._keys = CoordinatorKeys(coordinator_id)
        self._clock = ServerClock()
        self._signing: Keys | None = None
        self._outbox: Outbox | None = None
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._last = b"0"
        self._window = ReplayWindow()
        self._endings = Endings()
        self._answers: Answers = {}  # request id -> what was refused
        self._replayed: dict[str, str] = {}  # dead letter -> the task it runs again as

    # ---- opening and closing ----

    @operation
    async def open(self) -> None:
        """Connects. Raises TransportDown, ConfigError."""
        if self._reader:
            return
        self._redis = await server_for(self._redis, self._a2a)
        self._signing = keys_for(self._chain, self._a2a, self._redis)
        self._outbox = Outbox(self._chain, self._signing)
        self._wire = Wire(self._redis)
        await self._synchronise()
        self._outbox.incarnation = self._clock.now_ms()
        self._reader = asyncio.get_running_loop().create_task(self._read(), name=str(self._me))

    @operation
    async def close(self) -> None:
        """Disconnects. Tasks go on; their ends can be asked for by id."""
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._wire:
            await self._wire.close()

    def __enter__(self) -> Self:
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

        Raises TaskRefused with the reason: nothing was kept; BadTask: its payload is no JSON or too large;
        TaskTimeout: no answer within `timeout_s`, submitting the same task again is safe; PeerError: the coordinator
        rejected the message, most likely for another secret; TransportDown.
        """
        [task_id] = await self._submit([task], timeout_s)
        return task_id

    @operation
    async def submit_many(self, tasks: Sequence[Task], timeout_s: float = 60.0) -> list[str]:
        """Submits tasks in few messages; returns their ids, in order, once all are recorded. Raises as `submit`: on
        TaskRefused the others were accepted all the same, and asking for their results works."""
        return await self._submit(tasks, timeout_s)

    @operation
    async def result(self, task_id: str, timeout_s: float | None = None) -> Task:
        """The ended task, whoever submitted it: look at its `status`, `result` and `error`.

        Raises TaskTimeout when it has not ended within `timeout_s` (None: waits as long as it takes); UnknownTask.
        """
        async for task in self._as_completed([task_id], timeout_s):
            return task
        raise UnknownTask(task_id)

    @operation
    async def value(self, task_id: str, timeout_s: float | None = None) -> Any:
        """The result of a completed task. Raises TaskFailed when it ended otherwise; and as `result`."""
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
        """Asks for the end of a task and of all it has spawned. True: the coordinator has noted it, `result` tells
        the end; a task that has ended before stays as it is. Raises UnknownTask, TaskTimeout."""
        refused = await self._ask(Action.CANCEL_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
        return True

    @operation
    async def replay(self, task_id: str, timeout_s: float = 30.0) -> str:
        """Has a dead letter run again as it was submitted; returns the id of that new task, ORIGINAL.replayN.

        It has the idempotency key of the original, so that effects outside are not made twice, and no deadline that has
        passed. Asked again for the same dead letter it is the same task. Raises TaskRefused, which leaves the dead
        letter as it is; TaskTimeout."""
        refused = await self._ask(Action.REPLAY_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise TaskRefused(task_id, refused[0]["reason"])
        return self._replayed[task_id]

    @operation
    async def purge_dead_letter(self, task_id: str, timeout_s: float = 30.0) -> bool:
        """Takes a task off the queue of dead letters; its record is forgotten as those of other ended tasks. True: it
        is not there any more. Raises TaskRefused when there is no such dead letter; TaskTimeout."""
        refused = await self._ask(Action.PURGE_TASK, [orjson.dumps(task_id)], timeout_s)
        if refused:
            raise TaskRefused(task_id, refused[0]["reason"])
        return True

    def as_completed(self, task_ids: Iterable[str], timeout_s: float | None = None) -> Completed:
        """Ended tasks in the order in which they end, each once. To be iterated with `for` or with `async for`.

        Raises TaskTimeout when nothing has ended for `timeout_s`; UnknownTask.
        """
        return Completed(self._as_completed(list(task_ids), timeout_s), lambda: self._home)

    # ---- how ----

    async def _submit(self, tasks: Sequence[Task], timeout_s: float) -> list[str]:
        for task in tasks:
            check_sizes(task)
        ids = [task.task_id for task in tasks]
        self._endings.expect(ids)
        refused = await self._ask(Action.SUBMIT_TASK, (task.to_json() for task in tasks), timeout_s)
        if refused:
            for one in refused:
                self._endings.forget(one["task_id"])
            raise TaskRefused(refused[0]["task_id"], refused[0]["reason"])
        return ids

    async def _ask(self, action: Action, items: Iterable[bytes], timeout_s: float) -> list[dict[str, str]]:
        """Sends requests and waits for their answers: what was refused. One that is not answered is sent again, which
        a coordinator that has dealt with it answers anew. `items` is consumed as it is sent, so that the first are
        worked on while the last are still being encoded."""
        if not self._reader:
            await self.open.aio()
        deadline = time.monotonic() + timeout_s
        source = iter(items)
        unanswered: Parts = {}
        futures: Answers = {}
        while part := list(islice(source, MOST_ITEMS * MESSAGES_AT_ONCE)):
            futures |= await self._send(action, part, unanswered)
        refused: list[dict[str, str]] = []
        patience_s = REJECTED_S
        while futures:
            left_s = max(0.0, min(deadline - time.monotonic(), patience_s))
            answered, _ = await asyncio.wait(futures.values(), timeout=left_s)
            for request_id in [request_id for request_id, future in futures.items() if future.done()]:
                refused += futures.pop(request_id).result()
                del unanswered[request_id]
            if futures and time.monotonic() >= deadline:
                self._forget(futures)
                raise TaskTimeout(
                    f"{self._coordinator} did not answer at {self._redis.endpoint} within {timeout_s:g} s."
                    " Is it running? `agents status` shows it, `agents up` starts one. It finds the request in its"
                    " inbox when it starts; asking again for the same ids is safe, and one task."
                )
            if not answered:
                await self._raise_if_rejected(futures)
                if patience_s == ANSWER_S:
                    futures, unanswered = await self._send_again(action, futures, unanswered)
            patience_s = ANSWER_S
        return refused

    def _forget(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._answers.pop(request_id, None)

    async def _send_again(self, action: Action, old: Answers, unanswered: Parts) -> tuple[Answers, Parts]:
        """Under new request ids, so that a late answer to an old one counts for nothing."""
        self._forget(old)
        futures: Answers = {}
        sent: Parts = {}
        for part in unanswered.values():
            futures |= await self._send(action, part, sent)
        return futures, sent

    async def _raise_if_rejected(self, waiting: Answers) -> None:
        """Raises the PeerError for which there is no answer, when the coordinator rejected what this client sent."""
        assert self._wire
        assert self._outbox
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            look = ("XREVRANGE", self._keys.agent.quarantine, "+", "-", "COUNT", LATEST)
            [entries] = await self._wire.exchange([look])
        if not isinstance(entries, Exception) and (error := rejection_of(entries, self._me, self._outbox.incarnation)):
            self._forget(waiting)
            raise error

    async def _send(self, action: Action, items: list[bytes], unanswered: Parts) -> Answers:
        """Sends one message for each chunk of `items`, in one write; notes each by its request id."""
        assert self._outbox
        assert self._wire
        loop = asyncio.get_running_loop()
        futures: Answers = {}
        commands: list[Command] = []
        for chunk in chunks(items):
            step = Step()
            step.sends[Sending(self._coordinator, action)] = list(chunk)
            commands += self._outbox.commands(step, self._clock.now_ms())
            request_id = self._outbox.request_id(self._coordinator, self._outbox.sent[self._coordinator])
            futures[request_id] = self._answers[request_id] = loop.create_future()
            unanswered[request_id] = list(chunk)
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            for reply in await self._wire.exchange(commands):
                if isinstance(reply, Exception):
                    raise TransportDown(f"Redis refused a message: {reply}")
        return futures

    async def _as_completed(self, task_ids: Sequence[str], timeout_s: float | None) -> AsyncIterator[Task]:
        if not self._reader:
            await self.open.aio()
        for task_id in task_ids:
            if task_id not in self._endings:
                await self._watch([task_id])
        listener = self._endings.listen(task_ids)
        last_news_s = last_look_s = time.monotonic()
        try:
            while listener.waiting or listener.ended:
                while listener.ended:
                    last_news_s = time.monotonic()
                    yield listener.ended.popleft()
                now_s = time.monotonic()
                if listener.waiting and timeout_s is not None and now_s - last_news_s >= timeout_s:
                    raise TaskTimeout(
                        f"{len(listener.waiting)} task(s) have not ended within {timeout_s:g} s; they go on"
                    )
                if now_s - last_look_s >= LOOK_UP_S:
                    last_look_s = now_s
                    await self._look_up(list(islice(listener.waiting, LOOKED_UP_AT_ONCE)))
                elif listener.waiting and not listener.ended:
                    until_s = last_look_s + LOOK_UP_S
                    if timeout_s is not None:
                        until_s = min(until_s, last_news_s + timeout_s)
                    listener.news.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(until_s - now_s):
                            await listener.news.wait()
        finally:
            self._endings.leave(listener)

    async def _watch(self, task_ids: list[str]) -> None:
        """Asks to be told of the end of tasks that somebody else submitted, or an earlier life of this client."""
        self._endings.expect(task_ids)
        refused = await self._ask(Action.WATCH_TASK, [orjson.dumps(task_id) for task_id in task_ids], 30.0)
        if refused:
            self._endings.forget(refused[0]["task_id"])
            raise UnknownTask(
                f"no task {refused[0]['task_id']!r}: never submitted here, or ended longer ago than its retention"
            )

    async def _look_up(self, task_ids: list[str]) -> None:
        """Reads the records of those that have been waited for the longest: a reply may have been trimmed, or gone to
        an earlier reader."""
        assert self._wire
        try:
            async with self._lock:
                if not self._wire.connected:
                    await self._wire.connect()
                [records] = await self._wire.exchange([("HMGET", self._keys.tasks, *task_ids)])
        except TransportDown:
            return  # the reader reports it, and comes back
        for record in records if isinstance(records, list) else ():
            if record is not None and (task := Task.parse(orjson.loads(record))).status.ended:
                self._endings.tell(task)

    # ---- the reply stream ----

    async def _read(self) -> None:
        wire = Wire(self._redis)
        key = self._keys.replies(self.client_id)
        backoff_s, up = BACKOFF_S, True
        try:
            while True:
                try:
                    if not wire.connected:
                        await wire.connect()
                        await self._synchronise()
                    trim = [("XTRIM", key, "MINID", self._last)] if self._last != b"0" else []
                    read = ("XREAD", "COUNT", 64, "BLOCK", BLOCK_MS, "STREAMS", key, self._last)
                    replies = await wire.exchange([*trim, read], timeout_s=BLOCK_MS / 1000 + 3)
                    if isinstance(replies[-1], Exception):
                        raise TransportDown(f"Redis refused to be read: {replies[-1]}")
                    backoff_s, up = BACKOFF_S, True
                except TransportDown as error:
                    if up:
                        log.warning("Redis is away: %s", error, extra={"action": "transport_down"})
                    up = False
                    await asyncio.sleep(random.uniform(backoff_s / 2, backoff_s))
                    backoff_s = min(MOST_BACKOFF_S, backoff_s * 2)
                    continue
                for entry_id, fields in replies[-1][0][1] if replies[-1] else ():
                    self._last = entry_id
                    self._take(fields)
        finally:
            await wire.close()

    def _take(self, fields: list[bytes]) -> None:
        """One reply: verified like every message, and dropped with a line in the log when it is not good; what it would
        have told is looked up."""
        assert self._signing
        try:
            signed = Signed.from_fields(fields)
            message = A2AMessage.opened(signed, self._signing)
            check_permitted(signed.sender.role, Role.CLIENT, message.action)
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
        refused = message.payload.get("refused", [])
        if not isinstance(refused, list) or not all(isinstance(one, dict) for one in refused):
            raise MalformedMessage("payload.refused is not a list of objects")
        replayed = message.payload.get("replayed", {})
        if not isinstance(replayed, dict) or not all(isinstance(new_id, str) for new_id in replayed.values()):
            raise MalformedMessage("payload.replayed is not an object of ids")
        self._replayed |= replayed
        future = self._answers.pop(message.metadata.parent_request_id or "", None)
        if future and not future.done():
            future.set_result(refused)

    def _on_result(self, item: Any) -> None:
        if not isinstance(item, dict):
            raise MalformedMessage("a task in a reply is no object")
        if self._endings.is_open(str(item.get("task_id"))):
            try:
                self._endings.tell(Task.parse(item))
            except BadTask as error:
                raise MalformedMessage(str(error)) from error

    async def _synchronise(self) -> None:
        assert self._wire
        async with self._lock:
            if not self._wire.connected:
                await self._wire.connect()
            asked_s = time.monotonic()
            [reply] = await self._wire.exchange([("TIME",)])
            self._clock.sync(reply, asked_s)
