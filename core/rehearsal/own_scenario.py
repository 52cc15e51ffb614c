"""The product's own scenario: tasks that fail, have children, or ask; and in every fourth run a person who answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from core.redis_backend.keys import CoordinatorKeys
from core.rehearsal.asking import Asking
from core.rehearsal.own_handlers import user_code
from core.rehearsal.scenario import Rehearsal, scenario
from core.rehearsal.world import COORDINATOR
from core.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from core.rehearsal.run import Run

__all__ = ["everything"]

TOP = CoordinatorKeys(COORDINATOR.agent_id)
#: The types of task of a run, and those of one in which somebody is asked.
TYPES, ASKING = ("noop", "noop", "flaky", "tree"), ("noop", "tree", "asker", "asker")


async def person(run: Run) -> None:
    """Sees now and then what is asked, and answers it: once, or twice, or to what was asked before."""
    chance, seen = run.rehearsal.chance, list[tuple[str, str, str]]()
    while run.plan.seed % 4 == 3:
        await asyncio.sleep(chance.uniform(0.2, 4.0))
        for task_id in run.world.store.ask("ZRANGE", TOP.questions, 0, -1):
            task = Task.from_json(run.world.store.ask("HGET", TOP.tasks, task_id))
            seen += [(task.task_id, wait.id, wait.digest) for wait in task.waits if wait.is_open_question]
        for task_id, question, digest in chance.sample(seen, min(len(seen), 3)):
            for _ in range(chance.choice([1, 1, 2])):
                run.client.answer(task_id, question, chance.randrange(3), chance.choice([None, digest]))


@scenario(handlers=lambda world: user_code(world.began, world.heard), places=Asking, person=person)
def everything(rehearsal: Rehearsal) -> Iterator[None]:
    """Every kind of task there is, and every kind of fault."""
    chance, types = rehearsal.chance, ASKING if rehearsal.seed % 4 == 3 else TYPES
    for _ in range(chance.randrange(1, 5)):
        at_s = rehearsal.moment()
        tasks = [_task(rehearsal, chance.choice(types), at_s) for _ in range(chance.randrange(1, 12))]
        rehearsal.submit_together(tasks, at_s)
    for _ in range(chance.choice([0, 0, 3])):
        rehearsal.cancel()
    yield
    wrong = [problem for ended in rehearsal.ended.values() for problem in _wrong_end(rehearsal, ended)]
    assert not wrong, "; ".join(wrong)


def _task(rehearsal: Rehearsal, kind: str, at_s: float) -> Task:
    chance = rehearsal.chance
    payload: dict[str, Any] = {"run_s": chance.choice([0.0, 0.0, 0.01, 0.5, 3.0])}
    if kind == "flaky":
        payload["fails"] = chance.choice([1, 2, 99])
    elif kind == "tree":
        payload.update(depth=chance.choice([1, 1, 2]), width=chance.choice([1, 2, 3]))
    elif kind == "asker":
        payload.update(asks=chance.choice([1, 2, 4]))
        if chance.random() < 0.3:
            payload.update(expires_s=chance.uniform(0.5, 8.0))
    deadline = at_s + chance.uniform(0.0, 20.0) if chance.random() < 0.1 else None
    return rehearsal.task(kind, payload, at_s, deadline=deadline)


def _wrong_end(rehearsal: Rehearsal, ended: Task) -> Iterator[str]:
    """What came out of a task, and should not have."""
    if ended.status is TaskStatus.COMPLETED and not rehearsal.run.world.began[ended.task_id]:
        yield f"{ended.task_id} completed, and never ran"
    if ended.task_type == "asker":
        yield from _wrong_answers(rehearsal, ended)
    elif ended.status is TaskStatus.COMPLETED and ended.result != (
        expected := _result(rehearsal.given[ended.task_id], ended)
    ):
        yield f"{ended.task_id} completed with {ended.result}, not with {expected}"
    if ended.status is TaskStatus.FAILED and ended.task_type in ("noop", "asker"):
        yield f"{ended.task_id} failed: {ended.error}"


def _wrong_answers(rehearsal: Rehearsal, ended: Task) -> Iterator[str]:
    """Answers that were lost, or that count without having been taken; or a task that got too few."""
    run, result = rehearsal.run, ended.result
    if ended.status is TaskStatus.COMPLETED and len(result) != rehearsal.given[ended.task_id].payload["asks"]:
        yield f"{ended.task_id} completed with {result}"
    for number, (answer, *children) in enumerate(run.world.heard.get(ended.task_id, ())):
        taken = run.client.taken.get((ended.task_id, f"{number}"), [])
        if {answer} != ({*taken} or {"default"}):
            yield f"{ended.task_id} was answered {answer!r} to question {number}, where {taken} was taken"
        if children != [1] * (number % 2):
            yield f"{ended.task_id} got {children} beside the answer to question {number}"


def _result(task: Task, ended: Task) -> Any:
    """What comes out of a task, if it is the attempt that counts whose result was recorded."""
    if task.task_type != "tree":
        return {**task.payload, "attempt": ended.attempt}
    nodes = 1
    for _ in range(task.payload["depth"]):
        nodes = 1 + task.payload["width"] * nodes
    return nodes
