"""Reads what a hierarchy looks like now, in two round trips, however many agents there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from core.a2a_messaging import A2AMessage
from core.config.settings import AgentConfig
from core.errors import PeerError, ServerRefused
from core.langgraph_state import Lease
from core.natural_order import natural_key
from core.operations.hierarchy_top import Chain, Top, chains_in, read_top
from core.operations.stored_replies import StoredReplies
from core.overview import AgentView, Overview, coordinator_silent_ms, health_at
from core.ports import Command
from core.quotas import told_in
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.keys import CellKeys, CoordinatorKeys, keys_of
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.signing import Signed
from core.status_reports import Beat, beat_in
from core.stored import moment, shown
from core.waiting_counts import all_waiting

__all__ = ["read_agents", "read_overview"]

_REJECTED = b"rejected:"
#: Fields of headers that count commits: a distributor's has that of its cell.
_VERSION, _VERSION_OF_CELL = b"version", b"distributor_version"
#: Number of commands that are sent for each agent.
_READS_AN_AGENT = 4

#: Packed heartbeats, by the distributor that hears them ("": the coordinator) and the name of who sent them.
Beats = dict[tuple[str, bytes], bytes]


async def read_overview(
    source: Runs, coordinator_id: str, config: AgentConfig | None = None, *, workers: Sequence[Chain] | None = None
) -> Overview:
    """The hierarchy below that coordinator, as stored now. Agents that died without notice appear as gone.

    `config` gives the failure timeout and lease time by which health is judged. With `workers`, only these are looked
    at, beside the coordinator and the distributors with heartbeats, so that the cost grows with these alone. This is
    not one snapshot: the second round trip may see a little more than the first. Foreign values that cannot be read
    are named and count as missing. Raises TransportDown, ServerRefused.
    """
    config, found = config or AgentConfig(), StoredReplies()
    first = await read_top(source, coordinator_id, found, with_members=workers is None)
    chains = _tree(coordinator_id, [*(workers or ()), *chains_in(coordinator_id, first, found)])
    below = await _of_each(source, coordinator_id, first, chains, workers, found)
    agents = tuple(
        _view(chain, asked, looks, below.beats, first.now_ms, config, found)
        for chain, asked, looks in zip(chains, below.asked, below.looks, strict=True)
    )
    told = told_in(found.hash(below.looks[0][1], keys_of(chains[0]).header).get(b"waiting"))
    up = [agent for agent in agents if agent.up]
    waiting = all_waiting(
        told.waiting,
        (agent.beat.waits for agent in up if agent.role is Role.DISTRIBUTOR and agent.beat),
        ((agent.beat.running, agent.beat.queued) for agent in up if agent.role is Role.WORKER and agent.beat),
    )
    return Overview(
        coordinator_id, moment(first.now_ms), agents, first.open_tasks, first.ended_tasks, first.dead_letters,
        below.quarantined, first.asking, waiting, told.quotas, told.draining, tuple(found.unreadable),
    )  # fmt: skip


async def read_agents(
    source: Runs, agents: Sequence[Chain], config: AgentConfig
) -> tuple[list[AgentView], tuple[str, ...]]:
    """These agents, in this order, and the names of stored values that none of our agents wrote. One round trip.
    Raises TransportDown, ServerRefused."""
    found = StoredReplies()
    heard_at: dict[str, list[Chain]] = {}
    for chain in agents:
        if key := keys_of(chain).parent_heartbeats:
            heard_at.setdefault(key, []).append(chain)
    asked = [_looks(chain) for chain in agents]
    time, *replies = await source.look(
        ("TIME",),
        *(look for looks in asked for look in looks),
        *(("HMGET", key, *(chain[-1].agent_id for chain in chains)) for key, chains in heard_at.items()),
    )
    if isinstance(time, Exception):
        raise ServerRefused(f"Redis refused a read: {time}")
    now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
    told = iter(replies)
    looks = [list(islice(told, _READS_AN_AGENT)) for _ in agents]
    beats: Beats = {}
    for (key, chains), reply in zip(heard_at.items(), told, strict=True):
        for chain, packed in zip(chains, found.several(reply, key), strict=False):
            if packed is not None:
                beats[_parent_id(chain), chain[-1].agent_id.encode()] = packed
    views = [
        _view(chain, commands, look, beats, now_ms, config, found)
        for chain, commands, look in zip(agents, asked, looks, strict=True)
    ]
    return views, tuple(found.unreadable)


class _Below(NamedTuple):
    """What the second one tells: of each agent, and of what its distributor has heard."""

    asked: list[tuple[Command, ...]]  # the commands for each of the chains
    looks: list[list[Any]]  # the replies to them
    beats: Beats
    quarantined: dict[str, int]


async def _of_each(
    source: Runs,
    coordinator_id: str,
    first: Top,
    chains: Sequence[Chain],
    workers: Sequence[Chain] | None,
    found: StoredReplies,
) -> _Below:
    cells = [CellKeys(chain[-1].agent_id) for chain in chains if len(chain) == 2]
    quarantines = [
        *(cell.agent(coordinator_id).quarantine for cell in cells), CoordinatorKeys(coordinator_id).agent.quarantine,
    ]  # fmt: skip
    asked = [_looks(chain) for chain in chains]
    replies = iter(
        await source.look(
            *(look for looks in asked for look in looks),
            *(_heartbeats(cell, workers) for cell in cells),
            *(("XLEN", quarantine) for quarantine in quarantines),
        )
    )
    looks = [list(islice(replies, _READS_AN_AGENT)) for _ in chains]
    beats = {("", name): packed for name, packed in first.beats.items()}
    for cell, reply in zip(cells, islice(replies, len(cells)), strict=True):
        of_cell = found.hash(reply, cell.heartbeats) if workers is None else _named(cell, workers, reply)
        beats |= {(cell.distributor_id, name): packed for name, packed in of_cell.items()}
    readers = [*(f"distributor:{cell.distributor_id}" for cell in cells), f"coordinator:{coordinator_id}"]
    kept = map(found.count, replies, quarantines)
    return _Below(asked, looks, beats, {reader: count for reader, count in zip(readers, kept, strict=True) if count})


def _looks(chain: Chain) -> tuple[Command, ...]:
    keys = keys_of(chain)
    return (
        lease_read(keys.lease), ("HGETALL", keys.header), ("XLEN", keys.inbox), ("ZRANGE", keys.standbys, 0, -1),
    )  # fmt: skip


def _heartbeats(cell: CellKeys, workers: Sequence[Chain] | None) -> Command:
    """Reads the heartbeats of these workers in a cell; None: of all."""
    if workers is None:
        return ("HGETALL", cell.heartbeats)
    return ("HMGET", cell.heartbeats, *(_names_in(cell, workers) or [""]))


def _names_in(cell: CellKeys, workers: Sequence[Chain]) -> list[str]:
    return [chain[-1].agent_id for chain in workers if chain[1].agent_id == cell.distributor_id]


def _named(cell: CellKeys, workers: Sequence[Chain], reply: Any) -> dict[bytes, bytes]:
    """The heartbeats in a reply, by worker."""
    packed = reply if isinstance(reply, list) else []
    names = _names_in(cell, workers)
    return {name.encode(): beat for name, beat in zip(names, packed, strict=False) if beat is not None}


def _tree(coordinator_id: str, named: Iterable[Chain]) -> list[Chain]:
    """These agents, each parent before its children; missing parents are added."""
    chains: set[Chain] = {(Address(Role.COORDINATOR, coordinator_id),)}
    for chain in named:
        chains.update(chain[: length + 1] for length in range(len(chain)))
    order = cache(natural_key)  # those above many agents are in as many chains
    return sorted(chains, key=lambda chain: [order(address.agent_id) for address in chain])


def _view(
    chain: Chain,
    asked: Sequence[Command],
    looks: Sequence[Any],
    beats: Beats,
    now_ms: int,
    config: AgentConfig,
    found: StoredReplies,
) -> AgentView:
    stored_lease, flat_header, inbox, standbys = looks
    lease_key, header_key, inbox_key, standbys_key = (str(command[1]) for command in asked)
    lease = Lease.parse(stored_lease) if isinstance(stored_lease, bytes) else None
    if lease is None and stored_lease != b"":
        found.misses(lease_key)
    header = found.hash(flat_header, header_key)
    packed = beats.get((_parent_id(chain), chain[-1].agent_id.encode())) if len(chain) > 1 else None
    beat, sent_ms = _beat(packed)
    if packed is not None and beat is None:
        found.misses(f"the heartbeat of {chain[-1]}")
    silent_ms = now_ms - sent_ms if sent_ms is not None else None
    started_ms = beat.started_ms if beat else None
    if lease is not None and len(chain) == 1:
        silent_ms = coordinator_silent_ms(lease, now_ms, config.lease_s)
        started_ms = int(lease.acquired_at.timestamp() * 1000)
    return AgentView(
        chain=chain,
        health=health_at(lease is not None, beat, silent_ms, int(config.failure_timeout_s * 1000)),
        lease=lease,
        beat=beat,
        silent_ms=silent_ms,
        started_ms=started_ms,
        inbox=found.count(inbox, inbox_key),
        version=found.number(header, _VERSION_OF_CELL if len(chain) == 2 else _VERSION, header_key),
        fence=found.number(header, b"epoch", header_key),
        rejected={
            shown(name.removeprefix(_REJECTED)): found.number(header, name, header_key)
            for name in header
            if name.startswith(_REJECTED)
        },
        standbys=tuple(map(shown, found.several(standbys, standbys_key))),
    )


def _parent_id(chain: Chain) -> str:
    """Who hears its heartbeats, as in Beats."""
    return chain[1].agent_id if len(chain) == 3 else ""


def _beat(packed: bytes | None) -> tuple[Beat | None, int | None]:
    """A heartbeat, and when it was signed; None twice if there is none that can be read."""
    if packed is None:
        return None, None
    try:
        message = A2AMessage.decode(Signed.unpack(packed).body)
        return beat_in(message.payload), message.metadata.timestamp
    except PeerError:
        return None, None  # its reader rejects it as well, and counts it
