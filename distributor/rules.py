"""What a distributor decides. No I/O, no clock, no chance: the same state and batch give the same step.

It takes tasks from its coordinator, hands each to a worker that knows its type and has room, decides about retries,
notices workers that have gone, and passes results up. A result counts only for the attempt that is current: the
attempt's number is its fence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from core.agents import Beat, Child, Health
from core.balancing import LeastLoaded
from core.dispatch_queue import DispatchQueue
from core.langgraph_state import AgentStatus, LocalAgentState
from core.roles import Action, Address, Role
from core.step import Batch, Call, Drain, Received, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, skills_needed

__all__ = ["DistributorState", "capacity", "recall", "skills", "watch", "work"]

S = TaskStatus
#: Attempts of a task whose handler nobody has told the limit of yet.
DEFAULT_MAX_ATTEMPTS = 3
#: How many ended tasks stay visible in the shared state.
ENDED_KEPT = 50
#: A distributor wants this many times what its workers may hold, so that they find the next task waiting.
AHEAD = 2


@dataclass(slots=True)
class DistributorState(LocalAgentState):
    """The memory of a distributor: `local_tasks` are those it has from its coordinator."""

    coordinator: Address = field(kw_only=True)
    failure_timeout_ms: int = 5_000
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    workers: dict[str, Child] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)  #: arrived in this step; written once it is known where they go
    ended: deque[str] = field(default_factory=deque)  #: ended tasks that are still shown, oldest first
    max_attempts: dict[str, int] = field(default_factory=dict)  #: by task type, as the workers say
    last_worker: dict[str, str] = field(default_factory=dict)  #: task id -> who failed it last; a retry goes elsewhere
    incarnation: int = 0  #: of this distributor
    told_capacity: int = 0  #: what the coordinator was last told
    draining: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


def capacity(state: DistributorState) -> int:
    """How many tasks it wants to hold, given its workers."""
    return AHEAD * sum(child.window for child in state.workers.values() if child.health is Health.ACTIVE)


def skills(state: DistributorState) -> list[str]:
    """What its workers can do, all together."""
    return sorted({skill for child in state.workers.values() for skill in child.skills})


def tell_capacity(state: DistributorState, step: Step) -> None:
    """Lets the coordinator know at once when the capacity has changed by a quarter; the heartbeat tells the rest."""
    now = capacity(state)
    if abs(now - state.told_capacity) * 4 > state.told_capacity:
        state.told_capacity = now
        step.extras[Sending(state.coordinator, Action.CAPACITY)] = {"capacity": now, "capabilities": skills(state)}


# ---- what comes in ----


def work(state: DistributorState, batch: Batch, step: Step) -> None:
    """Takes messages, in order, and what happened in this process into the state, and hands out what it can."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, batch, step)
    for event in batch.events:
        if on_event := ON_EVENT.get(type(event)):
            on_event(state, event, batch, step)
    dispatch(state, batch, step)


def watch(state: DistributorState, batch: Batch, step: Step) -> None:
    """Looks at the workers, once a heartbeat, and hands out what that has freed. Heartbeats come after the messages
    of their batch: the results among those lay in the inbox before."""
    for beat in batch.living_beats:
        on_beat(state, beat, batch, step)
    judge_workers(state, batch, step)
    dispatch(state, batch, step)


def on_assign_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """With no tasks in it, the coordinator asks whether it is heard, and is answered likewise."""
    if not received.message.tasks:
        step.extras.setdefault(Sending(state.coordinator, Action.TASK_RESULT), {})
    for item in received.message.tasks:
        on_assign_task(state, Task.parse(item), step)


def on_assign_task(state: DistributorState, task: Task, step: Step) -> None:
    """A task from the coordinator. One that is here already is the same assignment, told again."""
    if task.task_id in state.local_tasks:
        return
    here = task.evolve(status=S.PENDING, assigned_to=None)
    state.local_tasks[task.task_id] = here
    if state.draining:
        give_back(state, here, step)
        return
    state.queue.push(here)
    state.fresh.append(task.task_id)
    state.count("assigned")


def on_cancel_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        on_cancel_task(state, str(item), batch, step)


def on_cancel_task(state: DistributorState, task_id: str, batch: Batch, step: Step) -> None:
    """Stops a task wherever it is. One that is not here has ended, or never came: either way it does not run."""
    task = state.local_tasks.get(task_id)
    if task is None:
        report(state, {"task_id": task_id, "status": S.CANCELLED.value}, step)
    elif task.status is S.IN_PROGRESS and task.assigned_to in state.workers:
        worker = state.workers[task.assigned_to]
        save(state, task.evolve(cancel_requested=True), step)
        item = orjson.dumps({"task_id": task_id, "attempt": task.attempt})
        step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation), item)
    else:
        conclude(state, task, {"status": S.CANCELLED.value}, batch, step)


def on_task_results(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        on_task_result(state, received.sender.agent_id, item, batch, step)


def on_task_result(state: DistributorState, name: str, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """The outcome of an attempt. Only the current attempt's first outcome counts; the others are counted."""
    task = state.local_tasks.get(item["task_id"])
    if task is None or task.attempt != item["attempt"] or task.assigned_to != name:
        state.count("late_results")
        return
    worker = state.workers.get(name)
    if worker:
        worker.in_flight.pop(task.task_id, None)
        if item["status"] == "returned":
            worker.gave_back()
        if "run_ms" in item:
            worker.ran(item["run_ms"])
    status = item["status"]
    if status == "returned":
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
    elif status == S.FAILED:
        on_failure(state, task, name, item, batch, step)
    else:
        conclude(state, task, {**item, "worker": name}, batch, step)


def on_failure(state: DistributorState, task: Task, name: str, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """A failed attempt: again after a pause and elsewhere, or the end of the task."""
    error = TaskError.model_validate({**item["error"], "attempt": task.attempt, "worker": name})
    if item.get("max_attempts"):
        state.max_attempts[task.task_type] = item["max_attempts"]
    if task.cancel_requested:
        conclude(state, task, {"status": S.CANCELLED.value, "worker": name}, batch, step)
    elif error.retryable and task.retry_count < attempts_allowed(state, task):
        state.last_worker[task.task_id] = name
        delay_ms = int(task.retry_delay().total_seconds() * 1000)
        state.count("retried")
        requeue(state, task, batch, step, not_before_ms=batch.now_ms + delay_ms, error=error)
    else:
        failed = {**item, "error": error.model_dump(), "worker": name}
        if error.type == "deadline":  # it was never run: nobody's handler has failed
            failed["status"] = S.ABANDONED.value
        conclude(state, task, failed, batch, step)


def on_task_progress(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """How far attempts are: shown in the shared state until the task ends."""
    for item in received.message.tasks:
        task = state.local_tasks.get(item["task_id"])
        if task and task.attempt == item["attempt"] and task.assigned_to == received.sender.agent_id:
            metadata = {**task.metadata, "progress": item["progress"]}
            save(state, task.evolve(metadata=metadata, updated_at=batch.now), step)


def attempts_allowed(state: DistributorState, task: Task) -> int:
    return task.max_attempts or state.max_attempts.get(task.task_type, DEFAULT_MAX_ATTEMPTS)


# ---- where tasks go ----


def requeue(
    state: DistributorState, task: Task, batch: Batch, step: Step, *, not_before_ms: int = 0, **changes: Any
) -> None:
    """Back in line for another attempt, or back to the coordinator while draining."""
    if task.cancel_requested:
        conclude(state, task, {"status": S.CANCELLED.value}, batch, step)
        return
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step)
    if "error" in changes:
        step.changes[task.task_id] = f"{again.status} {changes['error'].type}"
    if state.draining:
        give_back(state, again, step)
    else:
        state.queue.push(again, not_before_ms=not_before_ms)


def give_back(state: DistributorState, task: Task, step: Step) -> None:
    """Returns a task to the coordinator, which gives it to somebody else."""
    del state.local_tasks[task.task_id]
    state.queue.remove(task.task_id)
    state.last_worker.pop(task.task_id, None)
    step.remove(Table.ACTUAL, task.task_id)
    report(
        state,
        {"task_id": task.task_id, "status": "returned", "attempt": task.attempt, "retry_count": task.retry_count},
        step,
    )


def conclude(state: DistributorState, task: Task, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """The task leaves the cell; its outcome goes to the coordinator. A few ended ones stay visible."""
    task_id = task.task_id
    del state.local_tasks[task_id]
    state.queue.remove(task_id)
    state.last_worker.pop(task_id, None)
    item["task_id"], item["attempt"], item["retry_count"] = task_id, task.attempt, task.retry_count
    if task.started_at:
        item["started_at"] = item.get("started_at") or task.started_at
    report(state, item, step)
    status = S.WAITING if item["status"] == "delegated" else S(item["status"])
    state.count(item["status"])
    shown = {
        "task_id": task_id, "task_type": task.task_type, "status": status, "retry_count": task.retry_count,
        "created_at": task.created_at, "updated_at": batch.now, "assigned_to": task.assigned_to,
    }  # fmt: skip
    step.put(Table.ACTUAL, task_id, orjson.dumps(shown))
    step.changes[task_id] = trail(status, task.assigned_to, task.attempt, round(item.get("run_ms", 0)))
    state.ended.append(task_id)
    while len(state.ended) > ENDED_KEPT:
        oldest = state.ended.popleft()
        if oldest not in state.local_tasks and oldest not in state.ended:
            step.remove(Table.ACTUAL, oldest)


def trail(status: TaskStatus, worker: str | None, *facts: object) -> str:
    """A change as the audit trail tells it: its status, then who had the task and facts about that, if anybody did."""
    return " ".join(map(str, (status, worker, *facts))) if worker else status


def report(state: DistributorState, item: dict[str, Any], step: Step) -> None:
    step.send(Sending(state.coordinator, Action.TASK_RESULT), orjson.dumps(item))


def save(state: DistributorState, task: Task, step: Step) -> None:
    state.local_tasks[task.task_id] = task
    step.put(Table.ACTUAL, task.task_id, task.to_json())
    step.changes[task.task_id] = trail(task.status, task.assigned_to, task.attempt, task.task_type)


# ---- the workers ----


def on_beat(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """A worker is here, or still here. One that was started anew has none of the tasks its predecessor had."""
    beat = Beat.model_validate(received.message.payload)
    incarnation = received.message.metadata.incarnation
    name = received.sender.agent_id
    worker = state.workers.get(name)
    if worker is not None and worker.incarnation and incarnation > worker.incarnation:
        forget_worker(state, name, batch, step, died=True)
        worker = None
    if (worker is None or not worker.incarnation) and batch.age_ms(received) >= state.failure_timeout_ms:
        if worker is None:
            step.remove(Table.HEARTBEATS, name)
        return  # left behind by one that died before this distributor began to look
    if worker is None:
        worker = state.workers[name] = Child(received.sender, 0, beat, batch.mono_ms)
    elif (incarnation, beat.beat) < (worker.incarnation, worker.beat.beat):
        return  # an older heartbeat than the one we know
    if not worker.incarnation:
        worker.incarnation = incarnation
        step.note("worker_joined", worker=name, incarnation=incarnation)
        write_workers(state, step)
    worker.heard(beat, batch.mono_ms)
    state.max_attempts.update(beat.attempts)
    if received.message.action == Action.BEAT:
        audit(state, worker, batch, step)


def audit(state: DistributorState, worker: Child, batch: Batch, step: Step) -> None:
    """Finds what a worker was handed and neither has nor has reported: a stream that was emptied."""
    if worker.has_read(state.incarnation) and batch.taken_from(worker.address) >= worker.beat.sent:
        for task_id in worker.missing(dict(worker.beat.holding)):
            worker.in_flight.pop(task_id)
            state.count("missing")
            lost(state, state.local_tasks[task_id], worker.address.agent_id, batch, step, began=False)
    if worker.unanswered(batch.mono_ms, state.failure_timeout_ms):
        step.extras.setdefault(Sending(worker.address, Action.ASSIGN_TASK, None, worker.incarnation), {})
    worker.ask(batch.sent.get(worker.address, 0), batch.mono_ms)


def judge_workers(state: DistributorState, batch: Batch, step: Step) -> None:
    """Notices who has fallen silent; the tasks of one that is gone go to others."""
    for name, worker in list(state.workers.items()):
        health = worker.judge(batch.mono_ms, state.failure_timeout_ms)
        if health is not worker.health:
            step.note("worker_" + health, worker=name, in_flight=len(worker.in_flight))
            worker.health = health
        if health is Health.GONE:
            forget_worker(state, name, batch, step, died=True)
            step.remove(Table.HEARTBEATS, name)


def on_agent_left(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """A worker stops by its own will."""
    step.note("worker_left", worker=received.sender.agent_id)
    forget_worker(state, received.sender.agent_id, batch, step, died=False)


def forget_worker(state: DistributorState, name: str, batch: Batch, step: Step, *, died: bool) -> None:
    """Takes back what a worker had. Of one that died, as many as it runs at once may have begun: those attempts
    count. One that left by its own will has returned what it had begun."""
    worker = state.workers.pop(name, None)
    if worker is None:
        return
    for index, task_id in enumerate(worker.in_flight):
        task = state.local_tasks.get(task_id)
        if task and task.assigned_to == name:
            lost(state, task, name, batch, step, began=died and index < worker.beat.concurrency)
    if died:
        state.count("workers_lost")
    write_workers(state, step)


def lost(state: DistributorState, task: Task, name: str, batch: Batch, step: Step, *, began: bool) -> None:
    """An attempt whose worker is gone: again elsewhere, or given up when that happened too often."""
    if not began:
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
        return
    message = f"worker {name} was gone before it reported"
    error = TaskError(type="worker_lost", message=message, attempt=task.attempt, worker=name)
    if task.retry_count < attempts_allowed(state, task):
        state.last_worker[task.task_id] = name
        state.count("retried")
        requeue(state, task, batch, step, error=error)
    else:
        item = {"status": S.ABANDONED.value, "error": error.model_dump(), "worker": name}
        conclude(state, task, item, batch, step)


def write_workers(state: DistributorState, step: Step) -> None:
    known = {*state.metadata.get("registered", ()), *state.workers}
    step.put(Table.HEADER, "assigned_workers", orjson.dumps(sorted(known)))


# ---- draining, and calls of the Python API ----


def on_drain(state: DistributorState, event: Drain, batch: Batch, step: Step) -> None:
    """Takes nothing new; what no worker has goes back at once."""
    state.draining = True
    for task in list(state.local_tasks.values()):
        if task.status is S.PENDING:
            give_back(state, task, step)


def on_call(state: DistributorState, call: Call, batch: Batch, step: Step) -> None:
    """What a program that holds this agent asks of it."""
    if call.name == "register":
        known = state.metadata.setdefault("registered", [])
        if call.argument not in known:
            known.append(call.argument)
        write_workers(state, step)
        call.answer = True
    elif call.name == "assign":
        task, name = call.argument
        worker = state.workers.get(name)
        call.answer = worker is not None and task.task_id not in state.local_tasks
        if worker is not None and call.answer:
            state.local_tasks[task.task_id] = task
            hand_over(state, task, worker, batch, step)
    elif call.name == "hand_back":
        for task in list(state.local_tasks.values()):
            if task.status is S.IN_PROGRESS and task.assigned_to in state.workers:
                worker = state.workers[task.assigned_to]
                item = orjson.dumps({"task_id": task.task_id, "attempt": task.attempt})
                step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation), item)
            give_back(state, task, step)


# ---- handing over ----


def dispatch(state: DistributorState, batch: Batch, step: Step) -> None:
    """Hands waiting tasks to workers that have room, and writes those that arrived in this step."""
    tell_capacity(state, step)
    state.queue.wake(batch.now_ms)
    if state.queue.lanes:
        spread = LeastLoaded(state.workers.values())
        while (task_id := state.queue.pop(spread.can_serve)) is not None:
            task = state.local_tasks[task_id]
            worker = spread.choose(skills_needed(task), state.last_worker.get(task_id))
            assert worker
            hand_over(state, task, worker, batch, step)
            spread.took(worker)
    for task_id in state.fresh:
        fresh = state.local_tasks.get(task_id)
        if fresh is not None and fresh.status is S.PENDING:
            save(state, fresh, step)
    state.fresh.clear()
    status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    if status is not state.status:
        state.status = status
        step.put(Table.HEADER, "status", status.value.encode())
    state.updated_at = batch.now


def hand_over(state: DistributorState, task: Task, worker: Child, batch: Batch, step: Step) -> None:
    """A new attempt, with the next number, for this start of this worker."""
    handed = task.moved(
        S.IN_PROGRESS,
        batch.now,
        assigned_to=worker.address.agent_id,
        started_at=batch.now,
        attempt=task.attempt + 1,
        retry_count=task.retry_count + 1,
    )
    state.local_tasks[task.task_id] = handed
    worker.in_flight[task.task_id] = handed.attempt
    record = handed.to_json()
    step.put(Table.ACTUAL, task.task_id, record)
    step.send(Sending(worker.address, Action.ASSIGN_TASK, None, worker.incarnation), record)
    step.changes[task.task_id] = trail(S.IN_PROGRESS, handed.assigned_to, handed.attempt, handed.task_type)


def recall(state: DistributorState, records: list[Task], mono_ms: int) -> None:
    """Builds the memory from the stored records. A worker that has tasks is expected back until it has been silent
    for the failure timeout; its heartbeats tell what it still has."""
    state.local_tasks = {task.task_id: task for task in records if not task.status.ended and task.status != S.WAITING}
    state.ended.extend(task.task_id for task in records if task.task_id not in state.local_tasks)
    for task in sorted(state.local_tasks.values(), key=lambda task: task.created_at):
        if task.status is S.IN_PROGRESS and task.assigned_to:
            name = task.assigned_to
            if name not in state.workers:
                state.workers[name] = Child(Address(Role.WORKER, name), 0, Beat(), mono_ms)
            state.workers[name].in_flight[task.task_id] = task.attempt
        else:
            state.queue.push(task)


#: What may come in a message: `core.roles.ALLOWED` lets nothing else through.
ON_MESSAGE: dict[str, Callable[[DistributorState, Received, Batch, Step], None]] = {
    Action.ASSIGN_TASK: on_assign_tasks,
    Action.CANCEL_TASK: on_cancel_tasks,
    Action.TASK_RESULT: on_task_results,
    Action.TASK_PROGRESS: on_task_progress,
    Action.AGENT_JOINED: on_beat,
    Action.AGENT_LEFT: on_agent_left,
    Action.BEAT: on_beat,
}

ON_EVENT: dict[type, Callable[[DistributorState, Any, Batch, Step], None]] = {Call: on_call, Drain: on_drain}
