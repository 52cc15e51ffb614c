"""Counts the agents of a hierarchy, and how they are, at little cost for each: for whoever looks again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from core.config.settings import AgentConfig
from core.fleet_counts import UP, AgentBrief, FleetCounts, tiers_of
from core.langgraph_state import Lease
from core.natural_order import natural_key
from core.operations.hierarchy_top import Chain, Top, chains_in, read_top
from core.operations.stored_replies import StoredReplies
from core.overview import coordinator_silent_ms, health_at, types_in
from core.ports import Command
from core.quotas import told_in
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.keys import CellKeys, CoordinatorKeys, keys_of
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.signing import Signed
from core.status_reports import BeatCounts, beat_counts_in, names_in
from core.stored import moment
from core.waiting_counts import all_waiting

__all__ = ["read_fleet_counts"]

#: How many workers are read in one round trip, about: between two, others have their turn.
AT_ONCE = 1_000
NOTHING_SAID = BeatCounts()


async def read_fleet_counts(source: Runs, coordinator_id: str, config: AgentConfig | None = None) -> FleetCounts:
    """The hierarchy below that coordinator, as stored now, in what `read_overview` says of the same agents.

    Of a lease it is asked whether there is one, and not what it says; of a heartbeat, only what is counted is looked
    at. So an agent takes an eighth of the time that it does there. Raises TransportDown, ServerRefused.
    """
    config, found = config or AgentConfig(), StoredReplies()
    first = await read_top(source, coordinator_id, found, with_members=True)
    counting = _Counting(coordinator_id, first, config, found)
    agents = [await counting.coordinator(source)]
    for cells in _pages(_by_distributor(chains_in(coordinator_id, first, found))):
        agents += await counting.cells(source, cells)
    return FleetCounts(
        coordinator_id, moment(first.now_ms), tuple(agents), tiers_of(agents), first.open_tasks, first.ended_tasks,
        first.dead_letters, first.asking, all_waiting(counting.told, counting.waits, counting.running),
        counting.quarantined, tuple(sorted(types_in(names_in(counting.skills)))), names_in(counting.graphs),
        tuple(found.unreadable),
    )  # fmt: skip


Cells = dict[Address, dict[Address, Chain]]


def _by_distributor(chains: Iterable[Chain]) -> Cells:
    """The workers, each once, by their distributors."""
    cells: Cells = {}
    for chain in chains:
        if len(chain) > 1:
            of_cell = cells.setdefault(chain[1], {})
            if len(chain) == 3:
                of_cell[chain[2]] = chain
    return dict(sorted(cells.items(), key=lambda cell: natural_key(cell[0].agent_id)))


def _pages(cells: Cells) -> Iterator[Cells]:
    """The cells, in so many parts that each has about AT_ONCE workers; a cell is not divided."""
    page: Cells = {}
    workers = 0
    for distributor, of_cell in cells.items():
        page[distributor] = of_cell
        workers += len(of_cell)
        if workers >= AT_ONCE:
            yield page
            page, workers = {}, 0
    if page:
        yield page


class _Counting:
    """What one look has found so far."""

    def __init__(self, coordinator_id: str, first: Top, config: AgentConfig, found: StoredReplies) -> None:
        self._top = Address(Role.COORDINATOR, coordinator_id)
        self._first = first
        self._config = config
        self._timeout_ms = int(config.failure_timeout_s * 1000)
        self._found = found
        self.told: dict[str, int] = {}  #: what the coordinator says of waiting tasks
        self.waits: list[dict[str, int]] = []  #: what distributors that are up say of theirs
        self.running: list[tuple[int, int]] = []  #: of each worker that is up: how many run, and wait there
        self.quarantined: dict[str, int] = {}
        self.skills: set[bytes] = set()  #: of workers that are up, each list once, as it came
        self.graphs: set[bytes] = set()  #: likewise, of all

    async def coordinator(self, source: Runs) -> AgentBrief:
        keys = CoordinatorKeys(self._top.agent_id)
        stored, told, unread, kept = await source.look(
            lease_read(keys.agent.lease), ("HGET", keys.header, "waiting"), ("XLEN", keys.inbox),
            ("XLEN", keys.agent.quarantine),
        )  # fmt: skip
        lease = Lease.parse(stored) if isinstance(stored, bytes) else None
        if lease is None and stored != b"":
            self._found.misses(keys.agent.lease)
        silent_ms = coordinator_silent_ms(lease, self._first.now_ms, self._config.lease_s) if lease else None
        if not isinstance(told, bytes | None):
            self._found.misses(keys.header)
            told = None
        self.told = told_in(told).waiting
        self._note_quarantine(self._top, kept, keys.agent.quarantine)
        health = health_at(lease is not None, None, silent_ms, self._timeout_ms)
        return AgentBrief((self._top,), health, silent_ms, self._found.count(unread, keys.inbox))

    async def cells(self, source: Runs, cells: Cells) -> list[AgentBrief]:
        """The distributors of these cells, each with its workers behind it."""
        keys = {distributor: CellKeys(distributor.agent_id) for distributor in cells}
        looks = (look for distributor, workers in cells.items() for look in _looks(keys[distributor], workers))
        replies = iter(await source.look(*looks))
        agents = []
        for distributor, workers in cells.items():
            cell = keys[distributor]
            heard = self._found.hash(next(replies), cell.heartbeats)
            self._note_quarantine(distributor, next(replies), cell.quarantine)
            own = self._first.beats.get(distributor.agent_id.encode())
            agents.append(self._brief((self._top, distributor), own, next(replies), next(replies)))
            for worker, chain in workers.items():
                packed = heard.get(worker.agent_id.encode())
                agents.append(self._brief(chain, packed, next(replies), next(replies)))
        return agents

    def _brief(self, chain: Chain, packed: bytes | None, lease_bytes: Any, unread: Any) -> AgentBrief:
        told = None if packed is None else beat_counts_in(Signed.body_in(packed))
        said, sent_ms = told or (NOTHING_SAID, None)
        silent_ms = None if sent_ms is None else self._first.now_ms - sent_ms
        acts = bool(self._number(lease_bytes, chain, "lease"))
        health = health_at(acts, said, silent_ms, self._timeout_ms)
        if packed is not None and told is None:
            self._found.misses(f"the heartbeat of {chain[-1]}")
        self.graphs.add(bytes(said.graphs))
        if health in UP:
            if len(chain) == 2:
                self.waits.append(said.waits)
            else:
                self.running.append((said.running, said.queued))
                self.skills.add(bytes(said.capabilities))
        return AgentBrief(
            chain, health, silent_ms, self._number(unread, chain, "inbox"), said.running, said.queued,
            said.concurrency, said.agent_slots, said.done, said.failed,
        )  # fmt: skip

    def _number(self, reply: Any, chain: Chain, what: Literal["lease", "inbox"]) -> int:
        return reply if isinstance(reply, int) else self._found.count(reply, getattr(keys_of(chain), what))

    def _note_quarantine(self, reader: Address, reply: Any, key: str) -> None:
        if kept := self._found.count(reply, key):
            self.quarantined[str(reader)] = kept


def _looks(cell: CellKeys, workers: Iterable[Address]) -> Iterator[Command]:
    yield "HGETALL", cell.heartbeats
    yield "XLEN", cell.quarantine
    yield "STRLEN", cell.lease
    yield "XLEN", cell.inbox
    for worker in workers:
        yield "STRLEN", cell.worker_lease(worker.agent_id)
        yield "XLEN", cell.worker_inbox(worker.agent_id)
