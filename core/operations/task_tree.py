"""Reads the tree of a task: the task, and all that it has spawned or delegated. Nothing is acted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from core.budget import Grants, Ledger, ledger_of, left_of
from core.operations.task_records import PAGE, Unreadable, read_records
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.tasks import Task, TaskStatus

__all__ = ["Branch", "read_tree"]

#: What stands in place of a status if there is no record of ours.
FORGOTTEN, UNREADABLE = "forgotten", "unreadable"


@dataclass(frozen=True, slots=True)
class Branch:
    """A task in a tree, without what it was given and what it has returned."""

    task_id: str
    depth: int = 0  #: number of tasks above it in this tree
    parent_id: str | None = None  #: the one above it in this tree
    task_type: str = ""
    #: as recorded; `forgotten`: it has ended longer ago than its retention; `unreadable`: its record is not ours
    status: str = FORGOTTEN
    worker: str = ""  #: which has it, or has ended it; "": none
    stopping: bool = False  #: whether it is open, and its worker is asked to stop it
    error: str = ""  #: the type of the error of its last attempt that failed, or why it was given up
    #: what it and all below it have spent, if it has a budget of its own: calls, tokens, cost_usd
    spent: dict[str, float] | None = None
    left: dict[str, float] | None = None  #: what it may still spend of what is limited; None: nothing is

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


async def read_tree(source: Runs, coordinator_id: str, task_id: str) -> list[Branch]:
    """The tasks of a tree: each before those below it, which are in the order in which they were opened. A record is
    read once, whatever others say. A task that ends meanwhile is told of as it was, or as it is."""
    found: dict[str, _Found] = {}
    level = [Branch(task_id)]
    while level:
        below: list[Branch] = []
        for start in range(0, len(level), PAGE):
            page = level[start : start + PAGE]
            for told in await _page(source, coordinator_id, page):
                found[told.branch.task_id] = told
                below += [Branch(child, told.branch.depth + 1, told.branch.task_id) for child in told.children]
        level = list({branch.task_id: branch for branch in below if branch.task_id not in found}.values())
    ledgers = await _ledgers(source, coordinator_id, {told.grants[0][0] for told in found.values() if told.grants})
    return [_with_budgets(told, ledgers) for told in _in_order(found, task_id)]


class _Found(NamedTuple):
    branch: Branch
    children: tuple[str, ...] = ()
    grants: Grants = ()


async def _page(source: Runs, coordinator_id: str, page: Sequence[Branch]) -> list[_Found]:
    """These tasks with what is recorded of them, and the ids of their children."""
    ids = [branch.task_id.encode() for branch in page]
    records = {
        record.task_id: record for record in await read_records(source, CoordinatorKeys(coordinator_id).tasks, ids)
    }
    workers = await _workers(source, [record for record in records.values() if isinstance(record, Task)])
    return [_told(branch, records.get(branch.task_id), workers) for branch in page]


async def _workers(source: Runs, tasks: Sequence[Task]) -> dict[str, str]:
    """The workers that have these tasks, by id, as the distributors say."""
    held: dict[str, list[bytes]] = {}
    for task in tasks:
        if task.status is TaskStatus.IN_PROGRESS and task.assigned_to:
            held.setdefault(task.assigned_to, []).append(task.task_id.encode())
    workers = {}
    for distributor_id, ids in held.items():
        for record in await read_records(source, CellKeys(distributor_id).actual, ids):
            if isinstance(record, Task):  # otherwise it has ended there, or was not taken up yet
                workers[record.task_id] = record.assigned_to or ""
    return workers


def _told(branch: Branch, record: Task | Unreadable | None, workers: dict[str, str]) -> _Found:
    place = branch.task_id, branch.depth, branch.parent_id
    if record is None:
        return _Found(branch)
    if isinstance(record, Unreadable):
        return _Found(Branch(*place, status=UNREADABLE, error=record.why))
    _, slash, ended_by = (record.assigned_to or "").rpartition("/")
    told = Branch(
        *place,
        task_type=record.task_type,
        status=record.status.value,
        worker=ended_by if slash else workers.get(record.task_id, ""),
        stopping=record.cancel_requested and not record.status.ended,
        error=record.error.type if record.error else "",
    )
    return _Found(told, record.children, record.grants)


def _in_order(found: dict[str, _Found], root_id: str) -> list[_Found]:
    ordered, left = [], [root_id]
    while left:
        told = found[left.pop()]
        ordered.append(told)
        children = reversed(dict.fromkeys(told.children))
        left += [child for child in children if found[child].branch.parent_id == told.branch.task_id]
    return ordered


async def _ledgers(source: Runs, coordinator_id: str, heads: set[str]) -> dict[str, Ledger]:
    """What is counted of budgets, by the task with the outermost one."""
    if not heads:
        return {}
    names = sorted(heads)
    [ledgers] = await source.look(("HMGET", CoordinatorKeys(coordinator_id).budgets, *names))
    if isinstance(ledgers, Exception):  # the key is of another type, or holds too much
        return {}
    return {name: ledger_of(packed) for name, packed in zip(names, ledgers, strict=True)}


def _with_budgets(told: _Found, ledgers: dict[str, Ledger]) -> Branch:
    if not told.grants:
        return told.branch
    ledger = ledgers.get(told.grants[0][0], Ledger())
    has_own = told.grants[-1][0] == told.branch.task_id
    spent = ledger.of(told.branch.task_id).to_dict() if has_own else None
    return replace(told.branch, spent=spent, left=left_of(told.grants, ledger))
