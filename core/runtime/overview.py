"""Reads what a hierarchy looks like now, in two round trips, however many agents there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from core.a2a_messaging import A2AMessage
from core.agents import Beat
from core.config import AgentConfig
from core.errors import PeerError
from core.langgraph_state import Lease
from core.overview import AgentView, Overview, health_at
from core.ports import Command
from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys, keys_of
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.signing import Signed

__all__ = ["read_overview"]

_REJECTED = b"rejected:"
#: Commands that are sent for each agent.
_LOOKS = 4

Chain = tuple[Address, ...]


async def read_overview(source: Runs, coordinator_id: str, config: AgentConfig | None = None) -> Overview:
    """The hierarchy below that coordinator, as stored now; agents that died without a goodbye are in it as gone.

    `config` gives the failure timeout and lease time by which health is judged. Not one snapshot: the second round
    trip may see a little more than the first. Raises TransportDown, ServerRefused.
    """
    config = config or AgentConfig()
    top = CoordinatorKeys(coordinator_id)
    time_reply, members, open_tasks, ended_tasks, dead_letters, distributor_beats = await source.run(
        ("TIME",),
        ("SMEMBERS", ACTIVE),
        ("ZCARD", top.open),
        ("ZCARD", top.ended),
        ("ZCARD", top.dead),
        ("HGETALL", top.heartbeats),
    )
    now_ms = int(time_reply[0]) * 1000 + int(time_reply[1]) // 1000
    chains = _tree(coordinator_id, members, _pairs(distributor_beats))
    cells = [CellKeys(chain[-1].agent_id) for chain in chains if len(chain) == 2]
    looks: list[Command] = []
    for chain in chains:
        keys = keys_of(chain)
        looks += [("GET", keys.lease), ("HGETALL", keys.header), ("XLEN", keys.inbox), ("ZRANGE", keys.standbys, 0, -1)]
    looks += [("HGETALL", cell.heartbeats) for cell in cells]
    looks += [("XLEN", cell.agent(coordinator_id).quarantine) for cell in cells]
    looks.append(("XLEN", top.agent.quarantine))
    replies = await source.run(*looks)
    rest = replies[_LOOKS * len(chains) :]
    beats = {(cell.distributor_id, name): packed
             for cell, flat in zip(cells, rest, strict=False) for name, packed in _pairs(flat).items()}  # fmt: skip
    beats |= {("", name): packed for name, packed in _pairs(distributor_beats).items()}
    agents = [
        _view(chain, replies[_LOOKS * index : _LOOKS * (index + 1)], beats, now_ms, config)
        for index, chain in enumerate(chains)
    ]
    readers = [*(f"distributor:{cell.distributor_id}" for cell in cells), f"coordinator:{coordinator_id}"]
    quarantined = dict(zip(readers, rest[len(cells) :], strict=True))
    return Overview(
        coordinator_id,
        datetime.fromtimestamp(now_ms / 1000, UTC),
        tuple(agents),
        open_tasks,
        ended_tasks,
        dead_letters,
        {reader: count for reader, count in quarantined.items() if count},
    )


def _tree(coordinator_id: str, members: Sequence[bytes], distributor_beats: Mapping[bytes, bytes]) -> list[Chain]:
    """The chains of all agents that are known, each parent before its children; a missing parent is put in."""
    top = Address(Role.COORDINATOR, coordinator_id)
    chains: set[Chain] = {(top,)}
    for member in members:
        chain = tuple(Address.parse(part) for part in member.split(b"/"))
        if chain[0] == top:
            chains.update(chain[: length + 1] for length in range(len(chain)))
    chains.update((top, Address(Role.DISTRIBUTOR, name.decode())) for name in distributor_beats)
    return sorted(chains, key=lambda chain: [_natural(address.agent_id) for address in chain])


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sorting key that puts worker-2 before worker-10."""
    parts = name.replace("-", " ").replace("_", " ").replace(".", " ").split()
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def _view(
    chain: Chain, looks: Sequence[Any], beats: Mapping[tuple[str, bytes], bytes], now_ms: int, config: AgentConfig
) -> AgentView:
    stored_lease, flat_header, inbox, standbys = looks
    lease = Lease.from_json(stored_lease) if stored_lease else None
    header = _pairs(flat_header)
    parent_id = chain[1].agent_id if len(chain) == 3 else ""
    beat, sent_ms = _beat(beats.get((parent_id, chain[-1].agent_id.encode())) if len(chain) > 1 else None)
    silent_ms = now_ms - sent_ms if sent_ms is not None else None
    started_ms = beat.started_ms if beat else None
    if lease is not None and len(chain) == 1:
        # It is renewed when a third of its time has passed, so two thirds of it are left when the next sign is due.
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
        inbox=inbox,
        version=int(header.get(keys_of(chain).version_field.encode(), 0)),
        fence=int(header.get(b"epoch", 0)),
        rejected={
            name.removeprefix(_REJECTED).decode(): int(count)
            for name, count in header.items()
            if name.startswith(_REJECTED)
        },
        standbys=tuple(name.decode() for name in standbys),
    )


def _beat(packed: bytes | None) -> tuple[Beat | None, int | None]:
    """A heartbeat and when it was signed; nothing where there is none, or none that can be read."""
    if packed is None:
        return None, None
    try:
        message = A2AMessage.decode(Signed.unpack(packed).body)
    except PeerError:
        return None, None  # its reader rejects it as well, and counts it
    return Beat.model_validate(message.payload), message.metadata.timestamp


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
