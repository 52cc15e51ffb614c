"""Why a task does not run, as far as is stored now."""

from __future__ import annotations

from dataclasses import replace

from core.budget import ledger_of, reserved_by_others
from core.config.settings import AgentConfig
from core.errors import UnknownTask
from core.operations.limits import waits_at
from core.operations.overview import read_overview
from core.operations.task_records import read_task
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.roles import Address, Role
from core.tasks import Task, TaskStatus, grants_of
from core.waiting_reason import Explanation, WaitingFor, why_waiting

__all__ = ["explain", "explained"]


async def explain(source: Runs, coordinator_id: str, task_id: str, config: AgentConfig | None = None) -> Explanation:
    """Why a task does not run, or what it does. `config`: as for `read_overview`.

    Raises UnknownTask: it was never submitted here, or ended longer ago than its retention; UserError: its record is
    none of ours; TransportDown, ServerRefused."""
    task, in_cell = await read_task(source, coordinator_id, task_id)
    if task is None:
        raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
    return await explained(source, coordinator_id, task, in_cell, config)


async def explained(
    source: Runs, coordinator_id: str, task: Task | None, in_cell: Task | None, config: AgentConfig | None = None
) -> Explanation:
    """As `explain`, of a task whose records were read already, as `read_task` gives them; None: there is none yet."""
    # The one worker that has it is enough, unless nobody can run it: then those that get nothing now are looked at,
    # since their distributors do not say what they can do; and all, if no distributor has a worker.
    workers = []
    if task is not None and in_cell is not None and in_cell.status is TaskStatus.IN_PROGRESS:
        here = Address(Role.COORDINATOR, coordinator_id), Address(Role.DISTRIBUTOR, task.assigned_to or "")
        workers = [(*here, Address(Role.WORKER, in_cell.assigned_to or ""))]
    overview = await read_overview(source, coordinator_id, config, workers=workers)
    why = why_waiting(task, in_cell, overview)
    if why.waits_for in (WaitingFor.NOBODY_HAS, WaitingFor.SUSPECT_FLEET):
        idle = overview.idle_workers if overview.workers_up else None
        if idle or idle is None:
            why = why_waiting(task, in_cell, await read_overview(source, coordinator_id, config, workers=idle))
    if task is None or why.waits_for is not WaitingFor.RUNNING:
        return why
    if limit := await waits_at(source, coordinator_id, task.task_id):
        cure = "agents limits list; agents limits set NAME raises one"
        return replace(why, waits_for=WaitingFor.RATE_LIMIT, sentence=f"{why.sentence}; {limit}", cure=cure)
    if budget := await _budget_waited_for(source, coordinator_id, task):
        sentence = f"{why.sentence}; calls under way have reserved what is left of the budget of task {budget!r}"
        return replace(why, waits_for=WaitingFor.BUDGET, sentence=sentence, cure=f"agents tasks tree {budget}")
    return why


async def _budget_waited_for(source: Runs, coordinator_id: str, task: Task) -> str:
    """The task whose budget the calls of a running task wait for; empty: none, as far as can be read."""
    if not (grants := grants_of(task)):
        return ""
    [packed] = await source.look(("HGET", CoordinatorKeys(coordinator_id).budgets, grants[0][0]))
    return reserved_by_others(grants, ledger_of(packed if isinstance(packed, bytes) else None), task.task_id)
