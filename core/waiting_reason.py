"""Where a task is and why it waits: for programs, and in a sentence for people. A rule: everything that it judges by is
an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.agents import Health
from core.dispatch_queue import PATIENCE_MS
from core.module_names import module_name
from core.overview import AgentView, Overview
from core.quotas import names_of
from core.roles import Role
from core.stored import moment
from core.task_exclusion import excluded_until
from core.tasks import Task, TaskStatus, skills_needed
from core.waiting_counts import WaitingFor

__all__ = ["Explanation", "WaitingFor", "why_waiting"]

S, W = TaskStatus, WaitingFor
AGENTS_UP = "agents up"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one task does not run."""

    waits_for: WaitingFor
    sentence: str  #: for people, with the cure if that is short
    cure: str = ""  #: what somebody can do, if it is to run sooner; empty: nothing is to be done
    stuck: bool = False  #: whether it waits until somebody does that
    since: datetime | None = None
    until: datetime | None = None  #: None: nobody can tell
    numbers: dict[str, int | str] = field(default_factory=dict)  #: what this was judged by

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "waits_for": self.waits_for.value,
            "sentence": self.sentence,
            "cure": self.cure,
            "stuck": self.stuck,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "numbers": self.numbers,
        }


def why_waiting(task: Task | None, in_cell: Task | None, overview: Overview) -> Explanation:
    """Why a task does not run.

    `task` is the coordinator's record (None: there is none), `in_cell` the record in the cell of the distributor it is
    assigned to, if it is there.
    """
    coordinator = overview.agents[0]
    if task is not None and task.status.ended:
        return Explanation(W.NOTHING, f"it has ended as {task.status}", since=task.completed_at)
    if not coordinator.up:
        return _nobody(coordinator, "coordinator")
    if task is None:
        sentence = f"the coordinator has not recorded it yet ({coordinator.inbox} message(s) unread)"
        return Explanation(W.UNREAD, sentence, numbers={"unread": coordinator.inbox})
    if task.status is S.WAITING:
        return _suspended(task)
    if task.cancel_requested:
        return Explanation(W.CANCELLING, "it is being cancelled; its worker has to stop first", since=task.updated_at)
    if task.behind and task.run:
        return Explanation(
            W.THREAD_BUSY,
            f"its thread {task.run.thread_id!r} is busy: {task.behind} goes first, see `agents tasks show` of that",
            f"wait for {task.behind}, cancel it, or submit with a multitask strategy that replaces it",
            since=task.created_at,
            numbers={"thread": task.run.thread_id or "", "behind": task.behind},
        )
    if task.assigned_to is None:
        return (
            _pause(task, overview)
            or _nobody_can(task, overview)
            or _held_back(task, overview)
            or _drains(task, overview)
            or _all_busy(task, overview)
        )
    distributor = overview.agent(Role.DISTRIBUTOR, task.assigned_to)
    if distributor is None or not distributor.up:
        return Explanation(
            W.SUSPECT_FLEET,
            f"{task.assigned_to}, which has it, is silent; another distributor gets it, or it goes on with a restart",
            AGENTS_UP,
            numbers={"distributor": task.assigned_to},
        )
    if in_cell is not None and in_cell.status is S.IN_PROGRESS:
        return _running(in_cell, distributor, overview)
    return _pause(in_cell or task, overview) or _in_line(task, in_cell, distributor, overview)


def _suspended(task: Task) -> Explanation:
    """What a waiting task waits for."""
    asked = [wait for wait in task.waits if wait.is_open_question]
    parts = []
    if asked:
        parts.append(f"answers to {len(asked)} question(s): `agents questions show {task.task_id}`")
    if task.awaited:
        parts.append(f"its children: {len(task.awaited)} task(s), see `agents tasks list`")
    expiries = [wait.expires_at for wait in asked if wait.expires_at]
    return Explanation(
        W.QUESTION if asked else W.DEPENDENCY,
        f"it waits for {' and for '.join(parts) or 'nothing any more, and goes on soon'}",
        f"agents questions answer {task.task_id}" if asked else f"agents tasks tree {task.task_id}",
        since=task.updated_at,
        until=min(expiries) if expiries and len(expiries) == len(asked) else None,
        numbers={"questions": len(asked), "children": len(task.awaited)},
    )


def _nobody(agent: AgentView, role: str) -> Explanation:
    if agent.health is Health.SUSPECT:
        sentence = f"the {role} is silent; if it died, its successor takes over when the lease ends"
        return Explanation(W.SUSPECT_FLEET, sentence, f"agents up, or python -m {module_name(role)}", stuck=True)
    return _missing(f"no {role} is up: run `agents up`", AGENTS_UP)


def _missing(sentence: str, cure: str, **numbers: int | str) -> Explanation:
    return Explanation(W.NOBODY_HAS, sentence, cure, stuck=True, numbers=numbers)


def _nobody_can(task: Task, overview: Overview) -> Explanation | None:
    """Why no worker can run it; None: at least one can."""
    if not any(agent.up for agent in overview.of_role(Role.DISTRIBUTOR)):
        return _missing("no distributor is up: run `agents up`", AGENTS_UP)
    needed, skill_sets = skills_needed(task), overview.skill_sets
    if any(skills.issuperset(needed) for skills in skill_sets):
        return None
    every = overview.of_role(Role.WORKER)
    if silent := [worker for worker in _able(every, needed) if worker.health is Health.SUSPECT]:
        return Explanation(
            W.SUSPECT_FLEET,
            f"all that could run it are silent: {', '.join(worker.agent_id for worker in silent[:10])}",
            "if they have died, start others (`agents up`); `agents doctor` says what is wrong",
            stuck=True,
            numbers={"silent": len(silent)},
        )
    workers = overview.workers_up
    if not workers and any(worker.health is Health.UNHEARD for worker in every):
        return _missing("no distributor hears a worker: `agents doctor` says what to do", "agents doctor")
    if not workers:
        up = f"run `agents up`, or python -m {module_name('worker')}"
        return _missing(f"no worker is up: {up}", up)
    if not any(needed[0] in skills for skills in skill_sets):
        types = overview.task_types
        return _missing(
            f"no worker knows task type {task.task_type!r};"
            f" known: {', '.join(types) if types else 'none, start workers with --import YOUR_MODULE'}",
            f"start a worker with --import MODULE that registers {task.task_type!r}, or cancel the task",
            workers=workers,
        )
    names = ", ".join(needed[1:])
    return _missing(
        f"no worker that knows {task.task_type!r} has the capabilities it asks for: {names}",
        f"start a worker with --capabilities {','.join(needed[1:])}",
        workers=workers,
    )


def _able(workers: Sequence[AgentView], needed: Sequence[str]) -> list[AgentView]:
    return [worker for worker in workers if worker.beat and set(worker.beat.capabilities).issuperset(needed)]


def _held_back(task: Task, overview: Overview) -> Explanation | None:
    """Which quota it waits for; None: none holds it back."""
    for name in names_of(task):
        use = overview.quotas.get(name)
        if use is None:
            continue
        cure = f"agents quotas set {name}, or agents quotas remove {name}"
        if use.full:
            sentence = f"{name} has {use.in_flight} task(s) in flight, and {use.at_once} are allowed"
            numbers: dict[str, int | str] = {"quota": name, "in_flight": use.in_flight, "at_once": use.at_once or 0}
            return Explanation(W.QUOTA, sentence, cure, stuck=use.at_once == 0, since=task.created_at, numbers=numbers)
        if use.until_ms is not None:
            until = moment(use.until_ms)
            sentence = f"{name} may begin {use.per_minute} task(s) a minute; the next one begins at {_clock(until)}"
            numbers = {"quota": name, "per_minute": use.per_minute or 0}
            return Explanation(W.RATE_LIMIT, sentence, cure, since=task.created_at, until=until, numbers=numbers)
    return None


def _drains(task: Task, overview: Overview) -> Explanation | None:
    """Who stops, so that it is not handed out; None: nobody, or others are there."""
    if overview.waiting.get(W.DRAINING):
        able = _able([worker for worker in overview.of_role(Role.WORKER) if worker.up], skills_needed(task))
        health = {worker.health for worker in able}
        who = "all that could run it drain" if health == {Health.DRAINING} else "its coordinator drains"
        if health == {Health.DRAINING} or overview.draining:
            return Explanation(W.DRAINING, f"{who}; it goes on with those that come after them", AGENTS_UP)
    return None


def _all_busy(task: Task, overview: Overview) -> Explanation:
    up = [worker for worker in overview.of_role(Role.WORKER) if worker.up and worker.beat]
    running = sum(worker.beat.running for worker in up if worker.beat) or sum(
        int(facts.get("running") or 0)
        for distributor in overview.of_role(Role.DISTRIBUTOR)
        if distributor.up and distributor.beat
        for facts in distributor.beat.children.values()
    )
    return Explanation(
        W.ALL_FULL,
        f"it waits its turn: {overview.open_tasks} task(s) are open, {running} running",
        "start more workers that can run it, or raise their --concurrency",
        since=task.created_at,
        numbers={
            "open": overview.open_tasks,
            "running": running,
            "patience_ms": PATIENCE_MS[task.priority],
        },
    )


def _pause(task: Task, overview: Overview) -> Explanation | None:
    """When it begins or is retried, if that is still to come."""
    if task.not_before is None or task.not_before <= overview.at:
        return None
    if not task.errors:
        sentence = f"it must not begin before {task.not_before:%Y-%m-%d %H:%M:%S} UTC"
        return Explanation(W.NOT_BEFORE, sentence, since=task.created_at, until=task.not_before)
    error, again = task.errors[-1], _clock(task.not_before)
    return Explanation(
        W.EXCLUDED_UNTIL,
        f"attempt {error.attempt} failed ({error.type}: {error.message[:120]}); the next one begins at {again}",
        f"agents tasks show {task.task_id} tells what failed",
        since=task.updated_at,
        until=task.not_before,
        numbers={"attempts": task.retry_count},
    )


def _running(in_cell: Task, distributor: AgentView, overview: Overview) -> Explanation:
    chain = (*distributor.chain,)
    worker = next(
        (agent for agent in overview.agents if agent.chain[:2] == chain and agent.agent_id == in_cell.assigned_to), None
    )
    since = _clock(in_cell.started_at)
    numbers: dict[str, int | str] = {"attempt": in_cell.attempt, "worker": in_cell.assigned_to or ""}
    if worker is None or not worker.up:
        sentence = f"{in_cell.assigned_to}, which ran attempt {in_cell.attempt}, is silent; another worker gets it soon"
        return Explanation(W.SUSPECT_FLEET, sentence, since=in_cell.started_at, numbers=numbers)
    progress = in_cell.metadata.get("progress")
    return Explanation(
        W.RUNNING,
        f"{in_cell.assigned_to} has had attempt {in_cell.attempt} since {since}"
        + (f", progress {progress}" if progress is not None else "")
        + ("; it drains" if worker.health is Health.DRAINING else ""),
        since=in_cell.started_at,
        numbers=numbers,
    )


def _in_line(task: Task, in_cell: Task | None, distributor: AgentView, overview: Overview) -> Explanation:
    if distributor.inbox and in_cell is None:
        return Explanation(
            W.UNREAD,
            f"{distributor.agent_id} has not read it yet ({distributor.inbox} message(s) unread)",
            since=task.updated_at,
            numbers={"unread": distributor.inbox, "distributor": distributor.agent_id},
        )
    if why := _nobody_can(task, overview):
        return why
    until = excluded_until(in_cell) if in_cell else None
    if until is not None and until > overview.at:
        worker = in_cell.errors[-1].worker if in_cell else ""
        return Explanation(
            W.EXCLUDED_UNTIL,
            f"{worker} was lost with it; until {_clock(until)} it goes only where it begins at once",
            since=in_cell.updated_at if in_cell else None,
            until=until,
            numbers={"lost_with": worker},
        )
    beat = distributor.beat
    return Explanation(
        W.ALL_FULL,
        f"it waits its turn at {distributor.agent_id}: all its workers are busy",
        "start more workers that can run it, or raise their --concurrency",
        since=task.updated_at,
        numbers={
            "distributor": distributor.agent_id,
            "running": beat.running if beat else 0,
            "queued": beat.queued if beat else 0,
        },
    )


def _clock(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S} UTC" if moment else "a moment ago"
