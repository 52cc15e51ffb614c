"""Finds why a fleet does not do what it should: who is missing, who cannot be found, what nobody can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from core.agents import Health
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

__all__ = [
    "CLOCK_S", "check_agents", "check_clocks", "check_fleet", "check_registered", "check_tiers", "check_versions",
    "check_waiting", "unmet_needs",
]  # fmt: skip

#: How many agents are looked up in the registry, and how many of the oldest open tasks are looked at.
LOOKED_UP, OLDEST = 500, 200
#: Clocks that differ by more make logs hard to compare. Nothing else depends on them: agents use the server's clock.
CLOCK_S = 2.0
NAMED = 5  #: how many of something are named

OF_SILENCE = "see their logs: they are stopped, overloaded, or cut off from Redis; start them again"
#: What keeps waiting tasks from being handed out, besides that all are busy, and the cure.
HELD_BACK = {
    WaitingFor.NOBODY_HAS: (
        "for an agent that has what they need, and none is there",
        "start a worker with it (`agents up --import MODULE`); `agents tasks explain ID` says what is missing",
    ),
    WaitingFor.SUSPECT_FLEET: (
        "for agents that are silent",
        OF_SILENCE,
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


def check_agents(overview: Overview) -> Iterator[Finding]:
    """Whether those that have started are up, and heard."""
    unheard = [agent for agent in overview.agents if agent.health is Health.UNHEARD]
    silent = [agent for agent in overview.agents if agent.health is Health.SUSPECT]
    # A coordinator that is not up is a tier that is missing. Whoever leaves in order is not there any more.
    gone = [agent for agent in overview.agents if agent.health is Health.GONE and agent.role is not Role.COORDINATOR]
    up = sum(agent.up for agent in overview.agents)
    for agent in unheard[:NAMED]:
        above = agent.chain[-2]
        what = f"{agent.address} is not heard by {above}"
        if any(other.up for other in overview.agents if other.address == above):
            cure = f"give it the key that `agents key` prints for it, or the A2A_TOKEN_SECRET of {above}"
        else:
            cure = f"start {above}, which is not up"
        yield Finding("agents", "warn", what, cure)
    if silent:
        yield Finding("agents", "warn", f"silent: {_named(silent)}", OF_SILENCE)
    if gone:
        path = printable("/".join(map(str, gone[-1].chain)))  # one with nobody below it
        cure = f"see their logs; start them again, or forget who is not to come back: redis-cli srem {ACTIVE} {path}"
        yield Finding("agents", "warn", f"gone without notice: {_named(gone)}", cure)
    if not up:
        waits = [f"{overview.open_tasks} task(s) wait"] if overview.open_tasks else []
        waits += [f"{number} message(s) are unread"] if (number := _unread(overview)) else []
        yield Finding("agents", "warn", ", ".join(["none is up", *waits]), "agents up")
    elif not (unheard or silent or gone):
        yield Finding("agents", "ok", f"{up} up")


def check_tiers(overview: Overview) -> Iterator[Finding]:
    """Whether each tier is there that another one needs."""
    up = {role: [agent for agent in overview.of_role(role) if agent.up] for role in Role}
    below = [*up[Role.DISTRIBUTOR], *up[Role.WORKER]]
    childless = [distributor for distributor in up[Role.DISTRIBUTOR] if not _has_worker(distributor, up[Role.WORKER])]
    start = "python -m agent_system.worker --distributor ID --import MODULE, or `agents up`"
    if below and not up[Role.COORDINATOR]:
        cure = f"python -m agent_system.coordinator --id {overview.coordinator_id}, or `agents up`"
        yield Finding("tiers", "fail", "no coordinator is up: nothing is accepted, and nothing handed out", cure)
    elif up[Role.COORDINATOR] and not below:
        yield Finding("tiers", "warn", "a coordinator is up and nobody below it: tasks only wait", "agents up")
    elif childless and len(childless) == len(up[Role.DISTRIBUTOR]) and not up[Role.WORKER]:
        yield Finding("tiers", "warn", "no worker is up: tasks only wait", start)
    elif childless:
        yield Finding("tiers", "warn", f"nobody works for {_named(childless)}: it gets no tasks", start)
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
    """Which skills waiting tasks need that no worker has, or no worker has together."""
    sets = overview.skill_sets
    had = frozenset[str]().union(*sets)
    pending = [(task.task_id, frozenset(skills_needed(task))) for task in tasks if task.status is TaskStatus.PENDING]
    missing = Counter(skill for _, needs in pending for skill in needs - had)
    for skill, number in missing.most_common(NAMED):
        example = next(task_id for task_id, needs in pending if skill in needs)
        yield _unmet(f"no worker has {_skill(skill)}", number, example)
    together = Counter(needs for _, needs in pending if needs <= had and not any(needs <= one for one in sets))
    for needs, number in together.most_common(NAMED):
        example = next(task_id for task_id, others in pending if others == needs)
        yield _unmet(f"no worker has all of: {', '.join(map(_skill, sorted(needs)))}", number, example)


def _unmet(what: str, number: int, example: str) -> Finding:
    cure = f"start a worker that has it, or `agents tasks cancel {printable(example)}`"
    return Finding(
        "capabilities", "warn", f"{what} ({number} of the oldest tasks need it, as {printable(example)})", cure
    )


def _skill(skill: str) -> str:
    return f"the handler for tasks of type {skill[5:]!r}" if skill.startswith("task:") else f"the capability {skill!r}"


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
    asked: Iterator[Command] = (
        ("HMGET", keys.record(agent.agent_id), "version", "clock_ahead_ms", "place") for agent in up
    )
    replies = [reply if isinstance(reply, list) else [None] * 3 for reply in await reader.look(*asked)]
    told = [(_text(version), _text(ahead), _text(place)) for version, ahead, place in replies]
    names = [agent.agent_id for agent in up]
    versions = {name: version for name, (version, _, _) in zip(names, told, strict=True)}
    ahead_ms = {name: _signed(ahead) for name, (_, ahead, _) in zip(names, told, strict=True)}
    return [
        check_versions(versions, installed_version()),
        check_clocks({name: ms for name, ms in ahead_ms.items() if ms is not None}),
        *check_registered([(agent, place) for agent, (_, _, place) in zip(up, told, strict=True)]),
    ]


def check_registered(known: Sequence[tuple[AgentView, str]]) -> Iterator[Finding]:
    """Whether agents that are up can be discovered. `known`: each with the place of the one that is registered by its
    id; empty: none is."""
    missing = [agent for agent, place in known if not place]
    twice = [(agent, place) for agent, place in known if place and place != "/".join(map(str, agent.chain))]
    if missing:
        cure = "wait a heartbeat; if they stay away, their log says why they could not register (permissions, say)"
        what = f"up, and not in the registry, so that nobody discovers them: {_named(missing)}"
        yield Finding("registry", "warn", what, cure)
    for agent, place in twice[:NAMED]:
        what = f"{agent.address} of {agent.chain[-2]} cannot be discovered: its id is that of {printable(place)}"
        yield Finding("registry", "warn", what, "give each agent of a hierarchy an id of its own (--id)")
    if not (missing or twice):
        yield Finding("registry", "ok", f"{len(known)} agent(s) can be discovered")


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


def _named(agents: Sequence[AgentView]) -> str:
    rest = f" and {len(agents) - NAMED} more" if len(agents) > NAMED else ""
    return ", ".join(str(agent.address) for agent in agents[:NAMED]) + rest


def _unread(overview: Overview) -> int:
    """How many messages wait for the coordinator, requests of clients among them."""
    return sum(agent.inbox for agent in overview.of_role(Role.COORDINATOR))


def _has_worker(distributor: AgentView, workers: Sequence[AgentView]) -> bool:
    """Whether a worker of it is up, by what is seen of the workers or by what it says of them."""
    told = distributor.beat.children.values() if distributor.beat else ()
    return any(worker.chain[1] == distributor.address for worker in workers) or any(
        facts.get("health") == Health.ACTIVE for facts in told
    )


def _is_up(agent_id: str, known: Sequence[AgentView]) -> bool:
    return any(agent.agent_id == agent_id for agent in known)


def _signed(text: str) -> int | None:
    """A stored number, which may be below 0; None: there is none."""
    if not text:
        return None
    size = number_in(text.removeprefix("-").encode())
    return -size if text.startswith("-") else size


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
