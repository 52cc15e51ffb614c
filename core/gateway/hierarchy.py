"""The hierarchy behind a gateway, as its client sees it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from core.checkpoints.connection import GroupedConnection
from core.checkpoints.item_store import ItemStore
from core.checkpoints.redis_items import RedisItems
from core.checkpoints.redis_saver import RedisSaver
from core.checkpoints.threads import Threads
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, AgentConfig, RedisConfig
from core.errors import TransportDown
from core.fleet_counts import FleetCounts
from core.gateway.cron_runs import CronRuns
from core.gateway.deliveries import Deliveries
from core.gateway.event_fan import EventFan
from core.gateway.fleet import Fleet
from core.gateway.fleet_embeddings import FleetEmbeddings
from core.gateway.mailboxes import Mailboxes
from core.gateway.open_requests import Closing
from core.gateway.peers import Peers
from core.gateway.problems import Problem
from core.gateway.questions_watch import QuestionsWatch
from core.gateway.records import BEGINNING, Records
from core.gateway.sealed_records import SealedRecords
from core.gateway.store_indexes import StoreIndexes
from core.gateway.thread_news import ThreadNews
from core.operations.event_feed import EventFeed
from core.operations.explain import explained
from core.operations.fleet_counts import read_fleet_counts
from core.operations.hierarchy_top import Top, read_top
from core.operations.quotas import QuotaState, read_quotas
from core.operations.reader import Reader, opening, reading
from core.operations.stored_replies import StoredReplies
from core.operations.task_records import read_in_cell
from core.redis_backend import delivery_scripts, gateway_scripts, rate_scripts, registry_scripts
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.rate_scripts import TAKE_TOKEN
from core.registry.discovery import AgentDiscoveryService
from core.roles import Address, Role, asker_of
from core.run_stream import LAST_PLACE
from core.tasks import Task
from core.waiting_reason import Explanation
from core.waits import Wait
from core.webhooks import WebhookRules
from core.wiring import redis_or_configured, seals_of_agents, secrets_or_configured, server_for

__all__ = ["Hierarchy", "answer_to", "asks", "check_operator"]

#: Nobody is called.
NO_WEBHOOKS = WebhookRules()
#: How long it is taken as known which graphs there are, s.
GRAPHS_S = 2.0


class Hierarchy:
    """What the routes of a gateway stand on. Use it as a context manager. Raises what AgentClient does."""

    client: AgentClient
    records: Records
    sealed: SealedRecords
    crons: CronRuns
    deliveries: Deliveries
    threads: Threads
    store: ItemStore
    mailboxes: Mailboxes
    peers: Peers
    discovery: AgentDiscoveryService
    events: EventFan
    tenant: str | None = None  #: whose threads, runs and assistants `records` has; None: all

    def __init__(
        self,
        redis: RedisConfig | None,
        a2a: A2ASecrets | None,
        coordinator_id: str,
        client_id: str,
        agent_config: AgentConfig | None = None,
        webhooks: WebhookRules = NO_WEBHOOKS,
    ) -> None:
        """`agent_config`: of the workers of agents that register here."""
        self._agent_config = agent_config or AgentConfig()
        self.webhooks = webhooks
        self.closing = Closing()
        self._given = redis_or_configured(redis)
        self._a2a = secrets_or_configured(a2a or A2ASecrets())
        self.coordinator_id = coordinator_id
        self._client_id = client_id
        self.asker: Address = asker_of(client_id)  #: as whom it submits, sees and changes tasks
        self._keys = CoordinatorKeys(coordinator_id)
        self.gateway_keys = GatewayKeys(coordinator_id)
        self._graphs = _KnownGraphs()
        self.news = ThreadNews()
        #: what graphs look like and take, and when this was told
        self.descriptions: dict[str, tuple[float, dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        redis = self._redis = await server_for(self._given, self._a2a)
        seals_of = seals_of_agents(self.coordinator_id, self._a2a, redis)
        self._connection = GroupedConnection(
            opening(redis),
            (*rate_scripts.SCRIPTS, *registry_scripts.SCRIPTS, *delivery_scripts.SCRIPTS, *gateway_scripts.SCRIPTS),
        )
        self.run = self._connection.run
        self.mailboxes = Mailboxes(self._connection, opening(redis), self.gateway_keys)
        self.discovery = AgentDiscoveryService(self.coordinator_id, self._connection)
        self.peers = Peers(self._connection, self.gateway_keys)
        self.events = EventFan(partial(EventFeed, opening(redis), self.coordinator_id, seals_of), self._newest_event)
        self._watch = QuestionsWatch(self._connection, self._keys.questions)
        self.sealed = SealedRecords(self._connection, self.coordinator_id, seals_of)
        self.crons = CronRuns(self._connection, self.coordinator_id, self.sealed)
        self.records = Records(self._connection, self.coordinator_id, self.crons)
        self.deliveries = Deliveries(self._connection, self.gateway_keys)
        self._saver = RedisSaver(redis)
        self.threads = Threads(self._saver)
        self._items = RedisItems(opening(redis), self.coordinator_id)
        self.store = ItemStore(self._items)
        self._indexes = StoreIndexes(self.discovery, self._connection, self.gateway_keys.store_index)
        self.client = AgentClient(redis, self._a2a, self.coordinator_id, self._client_id)
        await self.client.open.aio()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.close()
        await self.events.close()
        await self.mailboxes.close()
        await self.client.close.aio()
        await self._saver.aclose()
        await self._items.close()
        await self._connection.close.aio()

    def seen_by(self, tenant: str | None) -> Self:
        """This hierarchy, once it is open, as it is for a tenant; None: for those who see all."""
        if tenant is None:
            return self
        view = copy.copy(self)
        view.tenant, view.records = tenant, self.records.of(tenant)
        return view

    def fleet(self) -> Fleet:
        """The agents that register here, once it is open."""
        return Fleet(self._redis, self._a2a, self.coordinator_id, self._agent_config, self._connection)

    async def indexed_store(self) -> ItemStore | None:
        """The store, finding items by meaning as the workers do; None: they have no index. Raises Problem: they cannot
        be asked, or have several."""
        if (index := await self._indexes.current()) is None:
            return None
        embeddings = FleetEmbeddings(self.client, self._indexes, index, self.tenant)
        return ItemStore(self._items, index={"embed": embeddings, "dims": index.dims, "fields": [*index.fields]})

    def reading(self) -> AbstractAsyncContextManager[Reader]:
        """A reader of what operators see."""
        return reading(self._redis)

    async def _newest_event(self) -> str:
        [newest] = await self.run(("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1))
        return newest[0][0].decode() if newest else "0"

    async def counts(self) -> FleetCounts:
        """How many agents and tasks there are. Raises TransportDown, ServerRefused."""
        async with self.reading() as reader:
            return await read_fleet_counts(reader, self.coordinator_id, self._agent_config)

    async def explain(self, task: Task) -> Explanation:
        """Why a task does not run, which was read a moment ago. Raises TransportDown, ServerRefused."""
        async with self.reading() as reader:
            in_cell = await read_in_cell(reader, task, self.sealed.task_in_cell)
            return await explained(reader, self.coordinator_id, task, in_cell, self._agent_config)

    async def quotas(self) -> list[QuotaState]:
        """All quotas, by name. Raises TransportDown, ServerRefused."""
        async with self.reading() as reader:
            found = await read_quotas(reader, self.coordinator_id, self.sealed.quota_in)
        return [quota for quota in found if quota.allows is not None]

    async def task_counts(self) -> Top:
        """How many tasks there are. Raises TransportDown, ServerRefused."""
        async with self.reading() as reader:
            return await read_top(reader, self.coordinator_id, StoredReplies(), with_members=False)

    async def wait_s(self, name: str, per_s: float) -> float:
        """Takes one of the `per_s` requests a second that somebody of that name may make at all gateways together, of
        which two seconds' worth may come at once. Returns 0, or after how many seconds there is another one."""
        interval_us, at_once_us = 1e6 / per_s, max(2e6, 1e6 / per_s)
        key = self.gateway_keys.rate(name)
        [wait_us] = await self.run(("EVALSHA", name_of(TAKE_TOKEN), 1, key, interval_us, at_once_us))
        return float(wait_us) / 1e6

    async def graphs(self, *, expected: str = "") -> frozenset[str]:
        """The types of task that are graphs of a worker. If `expected` was there a moment ago, nobody is asked."""
        known = self._graphs
        if expected not in known.names and time.monotonic() - known.at_s >= GRAPHS_S:
            known.names = (await self.counts()).graphs
            known.at_s = time.monotonic()
        return known.names

    async def tasks(self, task_ids: Sequence[str]) -> Mapping[str, Task]:
        """The tasks as they stand; those are missing that are not known, whose record has expired, or is forged."""
        return await self.sealed.tasks(task_ids)

    async def task(self, task_id: str) -> Task | None:
        return (await self.tasks([task_id])).get(task_id)

    async def last_chunk(self, task_id: str) -> str:
        """An id behind which stands what the run of a task tells from now on. Who wrote the last entry is not asked."""
        [found] = await self._connection.run(("XREVRANGE", self._keys.run_stream(task_id), "+", "-", "COUNT", 1))
        return f"{found[0][0].decode()}/{LAST_PLACE}" if found else BEGINNING

    async def over(self, task_id: str, attempts_before: int = 0) -> Task:
        """The task, once it has ended or asks something. `attempts_before`: those before an answer with which it goes
        on, so that it is not over while the coordinator has yet to take that. Raises as `AgentClient.result`."""
        ended = asyncio.create_task(self.client.result.aio(task_id))
        try:
            while True:
                asked = asyncio.create_task(self._watch.asks(task_id))
                try:
                    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asked.cancel()
                if ended.done():
                    return ended.result()
                with suppress(TransportDown):  # the look for questions waits until Redis is back
                    task = await self.task(task_id)
                    if task is not None and asks(task) and not await self._is_answered(task, attempts_before):
                        return task
        finally:
            ended.cancel()

    async def _is_answered(self, task: Task, attempts_before: int) -> bool:
        """Whether an answer to what a task asks is on its way."""
        if task.attempt > attempts_before:
            return False
        return await self.records.is_taken([answer_to(task, wait) for wait in task.waits if wait.is_open_question])


def answer_to(task: Task, wait: Wait) -> str:
    """Under what name gateways take the answer to a question: see `Records.claim_answers`."""
    return f"{task.task_id}:{task.attempt}:{wait.id}"


@dataclass
class _KnownGraphs:
    """The graphs that there were, and when that was. Every view of the hierarchy has the same."""

    names: frozenset[str] = frozenset()
    at_s: float = 0.0


def check_operator(hierarchy: Hierarchy) -> None:
    """Raises Problem: this gateway is a client like others, which does not change the fleet."""
    if hierarchy.asker.role is not Role.OPERATOR:
        raise Problem(403, "this gateway is no operator; start it with `agents gateway --id operator:NAME`")


def asks(task: Task) -> bool:
    """Whether a task waits for the answer of a person."""
    return task.status == "waiting" and any(wait.is_open_question for wait in task.waits)
