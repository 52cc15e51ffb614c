"""Reads what a hierarchy looks like now, in two round trips, however many agents there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from core.a2a_messaging import A2AMessage
from core.config.settings import AgentConfig
from core.errors import MalformedMessage, PeerError, ServerRefused
from core.langgraph_state import Lease
from core.natural_order import natural_key
from core.overview import AgentView, Overview, health_at
from core.ports import Command
from core.quotas import told_in
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys, keys_of
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.signing import Signed
from core.status_reports import Beat, beat_in
from core.stored import moment, number_in, pairs, shown
from core.waiting_counts import WaitingFor

__all__ = ["read_overview"]

_REJECTED = b"rejected:"
#: Fields of headers that count commits: a distributor's has that of its cell.
_VERSION, _VERSION_OF_CELL = b"version", b"distributor_version"
#: Number of commands that are sent for each agent.
_READS_AN_AGENT = 4
_ROLES = (Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER)

Chain = tuple[Address, ...]
#: Packed heartbeats, by the distributor that hears them ("": the coordinator) and the name of who sent them.
Beats = dict[tuple[str, bytes], bytes]


async def read_overview(
    source: Runs, coordinator_id: str, config: AgentConfig | None = None, *, workers: Sequence[Chain] | None = None
) -> Overview:
    """The hierarchy below that coordinator, as stored now. Agents that died without notice appear as gone.

    `config` gives the failure timeout and lease time by which health is judged. With `workers`, only these are looked
    at, beside the coordinator and the distributors with heartbeats, so that the cost grows with these alone. This is
    not one snapshot: the second round trip may see a little more than the first. Foreign values that cannot be read
    are named and count as missing. Raises TransportDown.
    """
    config, found = config or AgentConfig(), _Found()
    first = await _at_the_top(source, coordinator_id, workers, found)
    below = await _of_each(source, coordinator_id, first, workers, found)
    agents = tuple(
        _view(chain, asked, looks, below.beats, first.now_ms, config, found)
        for chain, asked, looks in zip(first.chains, below.asked, below.looks, strict=True)
    )
    told = told_in(found.hash(below.looks[0][1], keys_of(first.chains[0]).header).get(b"waiting"))
    return Overview(
        coordinator_id, moment(first.now_ms), agents, first.open_tasks, first.ended_tasks, first.dead_letters,
        below.quarantined, first.asking, _waiting(told.waiting, agents), told.quotas, told.draining,
        tuple(found.unreadable),
    )  # fmt: skip


class _Top(NamedTuple):
    """What the first round trip tells: the coordinator's counts, and which agents there are."""

    now_ms: int
    open_tasks: int
    ended_tasks: int
    dead_letters: int
    asking: int
    beats: dict[bytes, bytes]  # of distributors
    chains: list[Chain]  # the coordinator's first


class _Below(NamedTuple):
    """What the second one tells: of each agent, and of what its distributor has heard."""

    asked: list[tuple[Command, ...]]  # the commands for each of the chains
    looks: list[list[Any]]  # the replies to them
    beats: Beats
    quarantined: dict[str, int]


async def _at_the_top(source: Runs, coordinator_id: str, workers: Sequence[Chain] | None, found: _Found) -> _Top:
    top = CoordinatorKeys(coordinator_id)
    of_tasks = (top.open, top.ended, top.dead, top.questions)
    time_reply, opened, ended, dead, questions, distributor_beats, *listed = await source.look(
        ("TIME",),
        *(("ZCARD", key) for key in of_tasks),
        ("HGETALL", top.heartbeats),
        *([("SMEMBERS", ACTIVE)] if workers is None else []),
    )
    if isinstance(time_reply, Exception):
        raise ServerRefused(f"Redis refused a read: {time_reply}")
    now_ms = int(time_reply[0]) * 1000 + int(time_reply[1]) // 1000
    open_tasks, ended_tasks, dead_letters, asking = map(found.count, (opened, ended, dead, questions), of_tasks)
    members = ["/".join(map(str, chain)).encode() for chain in workers or ()]
    for reply in listed:
        members += found.several(reply, ACTIVE)
    beats = found.hash(distributor_beats, top.heartbeats)
    chains = _tree(coordinator_id, members, [*beats], found)
    return _Top(now_ms, open_tasks, ended_tasks, dead_letters, asking, beats, chains)


async def _of_each(
    source: Runs, coordinator_id: str, first: _Top, workers: Sequence[Chain] | None, found: _Found
) -> _Below:
    cells = [CellKeys(chain[-1].agent_id) for chain in first.chains if len(chain) == 2]
    quarantines = [
        *(cell.agent(coordinator_id).quarantine for cell in cells), CoordinatorKeys(coordinator_id).agent.quarantine,
    ]  # fmt: skip
    asked = [_looks(chain) for chain in first.chains]
    replies = iter(
        await source.look(
            *(look for looks in asked for look in looks),
            *(_heartbeats(cell, workers) for cell in cells),
            *(("XLEN", quarantine) for quarantine in quarantines),
        )
    )
    looks = [list(islice(replies, _READS_AN_AGENT)) for _ in first.chains]
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


def _waiting(told: Mapping[str, int], agents: Sequence[AgentView]) -> dict[str, int]:
    """How many tasks wait for what: what the coordinator says of those that nobody has, and the agents below it of
    theirs. As each tells with its heartbeat, a task that moves may count twice, or not at all."""
    counts = Counter(told)
    for agent in agents:
        if agent.beat is None or not agent.up:
            continue
        if agent.role is Role.DISTRIBUTOR:
            counts.update(agent.beat.waits)
        elif agent.role is Role.WORKER:
            counts.update({WaitingFor.RUNNING: agent.beat.running, WaitingFor.ALL_FULL: agent.beat.queued})
    return {str(reason): count for reason, count in sorted(counts.items()) if count > 0}


class _Found:
    """Takes replies, and notes the unreadable ones: their key is of another type, or too large."""

    def __init__(self) -> None:
        self.unreadable: dict[str, None] = {}  # the names, once each, in order

    def misses(self, what: str) -> None:
        self.unreadable[what] = None

    def count(self, reply: Any, key: str) -> int:
        if isinstance(reply, int):
            return reply
        self.misses(key)
        return 0

    def several(self, reply: Any, key: str) -> Sequence[bytes]:
        if isinstance(reply, list):
            return reply
        self.misses(key)
        return []

    def hash(self, reply: Any, key: str) -> dict[bytes, bytes]:
        return pairs(self.several(reply, key))

    def number(self, header: Mapping[bytes, bytes], name: bytes, key: str) -> int:
        value = header.get(name, b"0")
        number = number_in(value)
        if not number and value != b"0":
            self.misses(f"{shown(name)} in {key}")
        return number


def _tree(coordinator_id: str, members: Sequence[bytes], distributors: Sequence[bytes], found: _Found) -> list[Chain]:
    """The chains of all known agents, each parent before its children; missing parents are added."""
    top = Address(Role.COORDINATOR, coordinator_id)
    chains: set[Chain] = {(top,)}
    for member in [*members, *(f"{top}/distributor:".encode() + name for name in distributors)]:
        try:
            chain = tuple(Address.parse(part) for part in member.split(b"/"))
        except MalformedMessage:
            found.misses(f"an agent of the name {shown(member)!r}")
            continue
        if chain[0] == top and tuple(address.role for address in chain) == _ROLES[: len(chain)]:
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
    found: _Found,
) -> AgentView:
    stored_lease, flat_header, inbox, standbys = looks
    lease_key, header_key, inbox_key, standbys_key = (str(command[1]) for command in asked)
    lease = Lease.parse(stored_lease) if isinstance(stored_lease, bytes) else None
    if lease is None and stored_lease != b"":
        found.misses(lease_key)
    header = found.hash(flat_header, header_key)
    parent_id = chain[1].agent_id if len(chain) == 3 else ""
    packed = beats.get((parent_id, chain[-1].agent_id.encode())) if len(chain) > 1 else None
    beat, sent_ms = _beat(packed)
    if packed is not None and beat is None:
        found.misses(f"the heartbeat of {chain[-1]}")
    silent_ms = now_ms - sent_ms if sent_ms is not None else None
    started_ms = beat.started_ms if beat else None
    if lease is not None and len(chain) == 1:
        # It is renewed after a third of its time, so two thirds are left when the next renewal is due.
        lease_s = lease.lease_ms / 1000 if lease.lease_ms else config.lease_s
        silent_ms = max(0, now_ms - int((lease.expires_at.timestamp() - lease_s * 2 / 3) * 1000))
        started_ms = int(lease.acquired_at.timestamp() * 1000)
    return AgentView(
        chain=chain,
        health=health_at(lease, beat, silent_ms, int(config.failure_timeout_s * 1000)),
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


def _beat(packed: bytes | None) -> tuple[Beat | None, int | None]:
    """A heartbeat, and when it was signed; None twice if there is none that can be read."""
    if packed is None:
        return None, None
    try:
        message = A2AMessage.decode(Signed.unpack(packed).body)
        return beat_in(message.payload), message.metadata.timestamp
    except PeerError:
        return None, None  # its reader rejects it as well, and counts it
