"""Finds why a fleet does not do what it should: who is missing, who cannot be found, what nobody can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from core.config.version import installed_version
from core.errors import PeerError
from core.operations.finding import Finding
from core.operations.reader import Reader
from core.operations.task_records import read_records
from core.overview import AgentView, Overview
from core.ports import Command
from core.printable import printable
from core.redis_backend.keys import ACTIVE, CoordinatorKeys, RegistryKeys
from core.roles import Role
from core.signing import Signed, key_id_of
from core.stored import number_in
from core.tasks import Task, TaskStatus, skills_needed
from core.waiting_counts import WaitingFor

__all__ = ["CLOCK_S", "check_clocks", "check_fleet", "check_tiers", "check_versions", "check_waiting", "unmet_needs"]

#: How many agents are looked up in the registry, and how many of the oldest open tasks are looked at.
LOOKED_UP, OLDEST = 500, 200
#: Clocks that differ by more make logs hard to compare. Nothing else depends on them: agents use the server's clock.
CLOCK_S = 2.0
NAMED = 5  #: how many of something are named

#: What keeps waiting tasks from being handed out, besides that all are busy, and the cure.
HELD_BACK = {
    WaitingFor.NOBODY_HAS: (
        "for an agent that has what they need, and none is there",
        "start a worker with it (`agents up --import MODULE`); `agents tasks explain ID` says what is missing",
    ),
    WaitingFor.SUSPECT_FLEET: (
        "for agents that are silent",
        "see their logs: they are stopped, overloaded, or cut off from Redis; start them again",
    ),
    WaitingFor.DRAINING: ("for agents that drain", "start others, or wait until they have been replaced"),
    WaitingFor.RATE_LIMIT: (
        "for the next minute of a quota",
        "`agents quotas list` shows it, if it is too low raise it",
    ),
    WaitingFor.QUOTA: ("for room in a quota", "`agents quotas list` shows it, if it is too low raise it"),
}


async def check_fleet(reader: Reader, overview: Overview, secret: str | None) -> list[Finding]:
    """All of these checks. `secret`: the root secret here; None: it is not known. Raises TransportDown,
    ServerRefused."""
    found = [*check_tiers(overview), *check_waiting(overview)]
    if overview.waiting.get(WaitingFor.NOBODY_HAS):
        found += unmet_needs(await _oldest(reader, overview.coordinator_id), overview)
    found += await _check_registry(reader, overview)
    found += await _check_secret(reader, overview, secret)
    if not any(agent.up for agent in overview.agents):
        found += await _check_others(reader, overview.coordinator_id)
    return found


def check_tiers(overview: Overview) -> Iterator[Finding]:
    """Whether each tier is there that another one needs."""
    up = {role: [agent for agent in overview.of_role(role) if agent.up] for role in Role}
    below = [*up[Role.DISTRIBUTOR], *up[Role.WORKER]]
    if below and not up[Role.COORDINATOR]:
        cure = f"python -m agent_system.coordinator --id {overview.coordinator_id}, or `agents up`"
        yield Finding("tiers", "fail", "no coordinator is up: nothing is accepted, and nothing handed out", cure)
    elif up[Role.COORDINATOR] and not below:
        yield Finding("tiers", "warn", "a coordinator is up and nobody below it: tasks only wait", "agents up")
    orphans = [worker for worker in up[Role.WORKER] if not _is_up(worker.chain[1].agent_id, up[Role.DISTRIBUTOR])]
    if orphans:
        what = ", ".join(f"{worker.agent_id} of {worker.chain[1].agent_id}" for worker in orphans[:NAMED])
        cure = "start their distributors, or start them with --distributor ID of one that is up"
        yield Finding("tiers", "fail", f"workers whose distributor is not up get nothing: {what}", cure)


def check_waiting(overview: Overview) -> Iterator[Finding]:
    """Whether tasks wait for something that does not come by itself."""
    for reason, (what, cure) in HELD_BACK.items():
        if number := overview.waiting.get(reason):
            yield Finding("distribution", "warn", f"{number} task(s) wait {what}", cure)
    if not any(overview.waiting.get(reason) for reason in HELD_BACK):
        queued = overview.waiting.get(WaitingFor.ALL_FULL, 0)
        what = f"{queued} task(s) wait their turn" if queued else "nothing is held back"
        yield Finding("distribution", "ok", what)


def unmet_needs(tasks: Sequence[Task], overview: Overview) -> Iterator[Finding]:
    """Which skills waiting tasks need that no worker has."""
    had = {
        skill
        for worker in overview.of_role(Role.WORKER)
        if worker.up and worker.beat
        for skill in worker.beat.capabilities
    }
    missing = Counter(
        skill
        for task in tasks
        if task.status is TaskStatus.PENDING
        for skill in skills_needed(task)
        if skill not in had
    )
    for skill, number in missing.most_common(NAMED):
        example = next(task.task_id for task in tasks if skill in skills_needed(task))
        named = f"handler for tasks of type {skill[5:]!r}" if skill.startswith("task:") else f"capability {skill!r}"
        what = f"no worker has the {named} ({number} of the oldest tasks need it, as {printable(example)})"
        cure = f"start a worker that has it, or `agents tasks cancel {printable(example)}`"
        yield Finding("capabilities", "warn", what, cure)


def check_versions(versions: dict[str, str], ours: str) -> Finding:
    """`versions`: by agent, what it has registered; `ours`: of this command."""
    others = {name: version for name, version in versions.items() if version and version != ours}
    if not others:
        return Finding("versions", "ok", f"all agents are of version {ours}, as this command")
    named = ", ".join(f"{printable(name)} {printable(version)}" for name, version in sorted(others.items())[:NAMED])
    cure = "one release apart works, to be replaced one by one: coordinators last; further apart is not tested"
    return Finding("versions", "warn", f"this command is of version {ours}, and others are not: {named}", cure)


def check_clocks(ahead_ms: dict[str, int]) -> Finding:
    """`ahead_ms`: by agent, how far the clock of its machine is ahead of the server's, as it has measured."""
    wrong = {name: ms for name, ms in ahead_ms.items() if abs(ms) > CLOCK_S * 1000}
    if not wrong:
        return Finding("clocks", "ok", f"those of {len(ahead_ms)} agent(s) are within {CLOCK_S:g} s of the server's")
    worst = sorted(wrong.items(), key=lambda each: -abs(each[1]))
    named = ", ".join(f"{printable(name)} {ms / 1000:+.1f} s" for name, ms in worst[:NAMED])
    cure = "use NTP on their machines; until then the times in their logs do not fit those of others"
    return Finding("clocks", "warn", f"{len(wrong)} agent(s) differ from the clock of the server: {named}", cure)


async def _check_registry(reader: Reader, overview: Overview) -> list[Finding]:
    """Whether all that are up can be found, of which versions they are, and what their clocks say."""
    up = [agent for agent in overview.agents if agent.up][:LOOKED_UP]
    if not up:
        return []
    keys = RegistryKeys(overview.coordinator_id)
    asked: Iterator[Command] = (("HMGET", keys.record(agent.agent_id), "version", "clock_ahead_ms") for agent in up)
    replies = [reply if isinstance(reply, list) else (None, None) for reply in await reader.look(*asked)]
    known = dict(zip((agent.agent_id for agent in up), replies, strict=True))
    missing = [name for name, (version, _) in known.items() if version is None]
    found = [check_versions({name: _text(version) for name, (version, _) in known.items()}, installed_version())]
    ahead_ms = {name: _signed(ahead) for name, (_, ahead) in known.items()}
    found.append(check_clocks({name: ms for name, ms in ahead_ms.items() if ms is not None}))
    if missing:
        cure = (
            "wait a heartbeat; if they stay away, their log says why they could not register (permissions, an id twice)"
        )
        what = f"up, and not in the registry, so that nobody discovers them: {', '.join(missing[:NAMED])}"
        found.append(Finding("registry", "warn", what, cure))
    else:
        found.append(Finding("registry", "ok", f"{len(up)} agent(s) can be discovered"))
    return found


async def _check_secret(reader: Reader, overview: Overview, ours: str | None) -> list[Finding]:
    """Whether the agents sign with the secret of this environment."""
    if not ours:
        return []
    [packed] = await reader.look(("HVALS", CoordinatorKeys(overview.coordinator_id).heartbeats))
    used = set()
    for beat in packed if isinstance(packed, list) else []:
        try:
            used.add(Signed.unpack(beat).key_id)
        except PeerError:
            continue
    if not used or key_id_of(ours.encode()) in used:
        return []
    cure = "set here the A2A_TOKEN_SECRET that the agents have; while that changes, the old one is A2A_PREVIOUS_SECRET"
    what = "the A2A_TOKEN_SECRET here is not that of the agents: they reject what is sent from here"
    return [Finding("secret", "fail", what, cure, 77)]


async def _check_others(reader: Reader, coordinator_id: str) -> list[Finding]:
    """Where nobody is up, whether agents of another coordinator are."""
    [members] = await reader.look(("SMEMBERS", ACTIVE))
    known = members if isinstance(members, list | set) else ()
    tops = {member.partition(b"/")[0].removeprefix(b"coordinator:") for member in known}
    others = sorted(printable(_text(top)) for top in tops if _text(top) != coordinator_id)
    if not others:
        return []
    what = f"no agent of {coordinator_id} is up, but of {', '.join(others[:NAMED])}"
    return [Finding("tiers", "warn", what, f"COORDINATOR_ID={others[0]}, if those are meant")]


async def _oldest(reader: Reader, coordinator_id: str) -> list[Task]:
    keys = CoordinatorKeys(coordinator_id)
    [ids] = await reader.look(("ZRANGE", keys.open, 0, OLDEST - 1))
    found = await read_records(reader, keys.tasks, ids) if isinstance(ids, list) and ids else []
    return [task for task in found if isinstance(task, Task)]


def _is_up(agent_id: str, known: Sequence[AgentView]) -> bool:
    return any(agent.agent_id == agent_id for agent in known)


def _signed(value: Any) -> int | None:
    """A stored number, which may be below 0; None: there is none."""
    if not isinstance(value, bytes):
        return None
    size = number_in(value.removeprefix(b"-"))
    return -size if value.startswith(b"-") else size


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
