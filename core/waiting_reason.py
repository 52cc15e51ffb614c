"""Where a task is and why it waits, in a sentence for people. A rule: everything that it judges by is an argument."""

from __future__ import annotations

from datetime import datetime

from core.agents import Health
from core.module_names import module_name
from core.overview import AgentView, Overview
from core.roles import Role
from core.tasks import Task, TaskStatus, skills_needed

__all__ = ["stuck_reason", "waiting_reason"]

S = TaskStatus


def waiting_reason(task: Task | None, in_cell: Task | None, overview: Overview) -> str:
    """One sentence, with the cure if the reader has one; empty for a task that has ended.

    `task` is the coordinator's record (None: there is none), `in_cell` the record in the cell of the distributor it is
    assigned to, if it is there.
    """
    coordinator = overview.agents[0]
    if task is not None and task.status.ended:
        return ""
    if not coordinator.up:
        return _nobody(coordinator, "coordinator")
    if task is None:
        return f"the coordinator has not recorded it yet ({coordinator.inbox} message(s) unread)"
    if task.status is S.WAITING:
        return _suspended(task)
    if task.cancel_requested:
        return "it is being cancelled; its worker has to stop first"
    if task.behind and task.run:
        return f"its thread {task.run.thread_id!r} is busy: {task.behind} goes first, see `agents tasks show` of that"
    if task.assigned_to is None:
        return _pause(task, overview) or _nobody_can(task, overview) or _all_busy(overview)
    distributor = overview.agent(Role.DISTRIBUTOR, task.assigned_to)
    if distributor is None or not distributor.up:
        return f"{task.assigned_to}, which has it, is silent; another distributor gets it, or it goes on with a restart"
    if in_cell is not None and in_cell.status is S.IN_PROGRESS:
        return _running(in_cell, distributor, overview)
    return _pause(in_cell or task, overview) or _in_line(task, in_cell, distributor, overview)


def stuck_reason(task: Task | None, in_cell: Task | None, overview: Overview) -> str:
    """Why a task will wait until somebody intervenes, with the cure; empty: it makes progress, or only waits its turn.
    The arguments are those of `waiting_reason`."""
    coordinator = overview.agents[0]
    if task is not None and task.status.ended:
        return ""
    if not coordinator.up:
        return _nobody(coordinator, "coordinator")
    runs = in_cell is not None and in_cell.status is S.IN_PROGRESS
    waits_for_others = task is None or task.status is S.WAITING or task.behind is not None
    return _nobody_can(task, overview) if task is not None and not waits_for_others and not runs else ""


def _suspended(task: Task) -> str:
    """What a waiting task waits for."""
    asked = sum(wait.is_open_question for wait in task.waits)
    parts = []
    if asked:
        parts.append(f"answers to {asked} question(s): `agents questions show {task.task_id}`")
    if task.awaited:
        parts.append(f"its children: {len(task.awaited)} task(s), see `agents tasks list`")
    return f"it waits for {' and for '.join(parts) or 'nothing any more, and goes on soon'}"


def _nobody(agent: AgentView, role: str) -> str:
    if agent.health is Health.SUSPECT:
        return f"the {role} is silent; if it died, its successor takes over when the lease ends"
    return f"no {role} is up: run `agents up`"


def _nobody_can(task: Task, overview: Overview) -> str:
    """Why no worker can run it; empty: at least one can."""
    if not any(agent.up for agent in overview.of_role(Role.DISTRIBUTOR)):
        return "no distributor is up: run `agents up`"
    workers = [worker for worker in overview.of_role(Role.WORKER) if worker.up and worker.beat]
    if not workers and any(worker.health is Health.UNHEARD for worker in overview.of_role(Role.WORKER)):
        return "no distributor hears a worker: `agents doctor` says what to do"
    if not workers:
        return f"no worker is up: run `agents up`, or python -m {module_name('worker')}"
    needed = skills_needed(task)
    skills = [set(worker.beat.capabilities) for worker in workers if worker.beat]
    if not any(needed[0] in known for known in skills):
        types = overview.task_types
        return (
            f"no worker knows task type {task.task_type!r};"
            f" known: {', '.join(types) if types else 'none, start workers with --import YOUR_MODULE'}"
        )
    if not any(known.issuperset(needed) for known in skills):
        return f"no worker that knows {task.task_type!r} has the capabilities it asks for: {', '.join(needed[1:])}"
    return ""


def _all_busy(overview: Overview) -> str:
    running = sum(worker.beat.running for worker in overview.of_role(Role.WORKER) if worker.up and worker.beat)
    return f"it waits its turn: {overview.open_tasks} task(s) are open, {running} running"


def _pause(task: Task, overview: Overview) -> str:
    """When it begins or is retried, if that is still to come."""
    if task.not_before is None or task.not_before <= overview.at:
        return ""
    if not task.errors:
        return f"it must not begin before {task.not_before:%Y-%m-%d %H:%M:%S} UTC"
    error, again = task.errors[-1], _clock(task.not_before)
    return f"attempt {error.attempt} failed ({error.type}: {error.message[:120]}); the next one begins at {again}"


def _running(in_cell: Task, distributor: AgentView, overview: Overview) -> str:
    chain = (*distributor.chain,)
    worker = next(
        (agent for agent in overview.agents if agent.chain[:2] == chain and agent.agent_id == in_cell.assigned_to), None
    )
    since = _clock(in_cell.started_at)
    if worker is None or not worker.up:
        return f"{in_cell.assigned_to}, which ran attempt {in_cell.attempt}, is silent; another worker gets it soon"
    progress = in_cell.metadata.get("progress")
    return (
        f"{in_cell.assigned_to} has had attempt {in_cell.attempt} since {since}"
        + (f", progress {progress}" if progress is not None else "")
        + ("; it drains" if worker.health is Health.DRAINING else "")
    )


def _in_line(task: Task, in_cell: Task | None, distributor: AgentView, overview: Overview) -> str:
    if distributor.inbox and in_cell is None:
        return f"{distributor.agent_id} has not read it yet ({distributor.inbox} message(s) unread)"
    return _nobody_can(task, overview) or f"it waits its turn at {distributor.agent_id}: all its workers are busy"


def _clock(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S} UTC" if moment else "a moment ago"
