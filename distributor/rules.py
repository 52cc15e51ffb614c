"""What a distributor decides. No I/O, no clock, no chance: the same state and batch give the same step.

It takes tasks from its coordinator, hands each to a worker that knows its type and has room, and passes results up.
Here is what may come in, and the handing out; `task_life` has what becomes of a task, `liveness` what is known of the
workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Raw
from msgspec.structs import asdict

from core.agents import Subordinate
from core.balancing import LeastLoaded
from core.dispatch_queue import Placement
from core.errors import BadTask, MalformedMessage
from core.langgraph_state import AgentStatus
from core.reports import (
    AttemptName,
    AttemptReport,
    TaskReport,
    attempt_in,
    attempt_report,
    item_of,
    progress_report,
    task_id_in,
    task_named,
)
from core.roles import Action, Address, Role
from core.status_reports import Beat, Room
from core.step import Batch, Call, Drain, Event, HeartbeatDue, Received, Request, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, check_names, skills_needed
from distributor.liveness import give_back_stranded, judge_workers, on_agent_left, on_beat, write_workers
from distributor.state import (
    AssignTask,
    DistributorState,
    HandBack,
    RegisterWorker,
    capacity,
    skill_sets,
    skills,
)
from distributor.task_life import (
    OUTCOMES,
    attempts_allowed,
    conclude,
    fail,
    give_back,
    hand_over,
    report,
    requeue,
    save,
)

__all__ = ["dispatch", "recall", "receive", "survey"]

S = TaskStatus
SUSPECTS_FIRST = (Placement.AT_ONCE, Placement.ALONE, Placement.ANYWHERE)


def tell_capacity(state: DistributorState, step: Step) -> None:
    """Lets the coordinator know at once when the capacity has changed by a quarter; the heartbeat tells the rest."""
    now = capacity(state)
    if abs(now - state.told_capacity) * 4 > state.told_capacity:
        state.told_capacity = now
        room = Room(capacity=now, capabilities=skills(state), skill_sets=skill_sets(state))
        step.extras[Sending(state.coordinator, Action.CAPACITY)] = asdict(room)


def receive(state: DistributorState, batch: Batch, step: Step) -> None:
    """Takes messages, in order, and what happened in this process into the state."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, batch, step)
    for event in batch.events:
        ON_EVENT[type(event)](state, event, batch, step)


def survey(state: DistributorState, batch: Batch, step: Step) -> None:
    """Looks at the workers, once a heartbeat, and returns what none of them can do. Heartbeats come after the messages
    of their batch: the results among those lay in the inbox before."""
    for beat in batch.living_beats:
        on_beat(state, beat, batch, step)
    judge_workers(state, batch, step)
    give_back_stranded(state, batch, step)


def on_assign_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """With no tasks in it, the coordinator asks whether it is heard, and is answered likewise."""
    if not received.message.tasks:
        step.extras.setdefault(Sending(state.coordinator, Action.TASK_RESULT), {})
    for item in received.message.tasks:
        try:
            task = Task.from_json(item)
            check_names(task)
            on_assign_task(state, task, batch, step)
        except BadTask as error:
            refuse_assignment(state, received, item, error, step)


def refuse_assignment(state: DistributorState, received: Received, item: Raw, error: BadTask, step: Step) -> None:
    """A task that is none ends here: the coordinator would hand it over again and again."""
    step.put_aside(received, item, MalformedMessage("a malformed task"))
    if task_id := task_id_in(item):
        problem = TaskError(type="BadTask", message=f"refused by its distributor: {error}", retryable=False)
        report(state, TaskReport(task_id=task_id, status="abandoned", error=problem), step)


def on_assign_task(state: DistributorState, task: Task, batch: Batch, step: Step) -> None:
    """A task from the coordinator. One that is here already is the same assignment, told again."""
    if task.task_id in state.local_tasks:
        return
    here = task.evolve(status=S.PENDING, assigned_to=None)
    state.local_tasks[task.task_id] = here
    if state.draining:
        give_back(state, here, batch, step)
        return
    state.queue.push(here)
    state.fresh.append(task.task_id)
    state.count("assigned")


def on_cancel_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        if task_id := task_named(item):
            on_cancel_task(state, task_id, batch, step)
        else:
            step.put_aside(received, item, MalformedMessage("this is no task id"))


def on_cancel_task(state: DistributorState, task_id: str, batch: Batch, step: Step) -> None:
    """Stops a task wherever it is. One that is not here has ended, or never came: either way it does not run."""
    task = state.local_tasks.get(task_id)
    if task is None:
        report(state, TaskReport(task_id=task_id, status="cancelled"), step)
    elif task.status is S.IN_PROGRESS and task.assigned_to in state.workers:
        worker = state.workers[task.assigned_to]
        save(state, task.evolve(cancel_requested=True), step)
        item = item_of(AttemptName(task_id=task_id, attempt=task.attempt))
        # To whichever start of it there is: that of one not yet heard of is unknown, and the attempt is the fence.
        step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation or None), item)
    else:
        conclude(state, task, S.CANCELLED, batch, step)


def on_task_results(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    name = received.sender.agent_id
    for item in received.message.tasks:
        try:
            said = attempt_report(item)
        except MalformedMessage as error:
            step.put_aside(received, item, error)
            if (told := failed_by(item, name, error)) is None:
                continue
            said = told
        on_task_result(state, name, said, batch, step)


def failed_by(item: Raw, name: str, error: MalformedMessage) -> AttemptReport | None:
    """Turns a malformed report into a failed attempt, if it names one. Another attempt may succeed elsewhere."""
    if (attempt := attempt_in(item)) is None:
        return None
    problem = TaskError(type="malformed_report", message=f"worker {name} sent a malformed report: {error}")
    return AttemptReport(task_id=attempt.task_id, attempt=attempt.attempt, status="failed", error=problem)


def on_task_result(state: DistributorState, name: str, said: AttemptReport, batch: Batch, step: Step) -> None:
    """The outcome of an attempt. Only the current attempt's first outcome counts; the others are counted."""
    task = state.local_tasks.get(said.task_id)
    if task is None or task.attempt != said.attempt or task.assigned_to != name:
        state.count("late_results")
        return
    status = said.status
    worker = state.workers.get(name)
    if worker:
        worker.in_flight.pop(task.task_id, None)
        if status == "returned":
            worker.mark_draining()
        if said.run_ms is not None:
            worker.ran(said.run_ms)
    if status == "returned":
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
    elif status == "failed":
        fail(state, task, name, said, batch, step)
    else:
        conclude(state, task, OUTCOMES[status], batch, step, said, worker=name)


def on_task_progress(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """How far attempts are: shown in the shared state until the task ends."""
    for item in received.message.tasks:
        try:
            said = progress_report(item)
        except MalformedMessage as error:
            step.put_aside(received, item, error)
            continue
        task = state.local_tasks.get(said.task_id)
        if task and task.attempt == said.attempt and task.assigned_to == received.sender.agent_id:
            metadata = {**task.metadata_json, "progress": said.progress_json}
            save(state, task.evolve(metadata_json=metadata, updated_at=batch.now), step)


def on_drain(state: DistributorState, event: Drain, batch: Batch, step: Step) -> None:
    """Takes nothing new; what no worker has goes back at once."""
    state.draining = True
    for task in list(state.local_tasks.values()):
        if task.status is S.PENDING:
            give_back(state, task, batch, step)


def place(state: DistributorState, task_id: str, worker_id: str, batch: Batch, step: Step) -> None:
    """Hands a task that waits to this worker, whether or not it has room. One that a worker has died with waits on, for
    a worker that it may be handed to."""
    worker = state.workers.get(worker_id)
    if worker is not None and task_id not in state.poison_suspects and state.queue.remove(task_id):
        hand_over(state, state.local_tasks[task_id], worker, batch, step)


def on_call(state: DistributorState, call: Call, batch: Batch, step: Step) -> None:
    """What a program that holds this agent asks of it."""
    call.answer = ON_REQUEST[type(call.request)](state, call.request, batch, step)


def on_register_worker(state: DistributorState, request: RegisterWorker, batch: Batch, step: Step) -> bool:
    known = state.metadata.setdefault("registered", [])
    if request.worker_id not in known:
        known.append(request.worker_id)
    write_workers(state, step)
    return True


def on_assign_to_worker(state: DistributorState, request: AssignTask, batch: Batch, step: Step) -> bool:
    worker = state.workers.get(request.worker_id)
    if worker is None or request.task.task_id in state.local_tasks:
        return False
    hand_over(state, request.task.evolve(root_id=None), worker, batch, step)
    return True


def on_hand_back(state: DistributorState, request: HandBack, batch: Batch, step: Step) -> None:
    for task in list(state.local_tasks.values()):
        if task.status is S.IN_PROGRESS and task.assigned_to in state.workers:
            worker = state.workers[task.assigned_to]
            item = item_of(AttemptName(task_id=task.task_id, attempt=task.attempt))
            step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation), item)
        give_back(state, task, batch, step)


def on_heartbeat_due(state: DistributorState, event: HeartbeatDue, batch: Batch, step: Step) -> None:
    """Nothing to take: `survey` looks at the workers."""


def dispatch(state: DistributorState, batch: Batch, step: Step) -> None:
    """Hands waiting tasks to workers that have room, and writes those that arrived in this step."""
    tell_capacity(state, step)
    state.queue.wake(batch.now_ms)
    for task_id, worker_id in step.placed.items():
        place(state, task_id, worker_id, batch, step)
    hand_out(state, batch, step)
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


def hand_out(state: DistributorState, batch: Batch, step: Step) -> None:
    """Hands out what waits as far as workers have room, suspects of poison first. While one of those waits for a free
    slot, nobody is handed more than it begins at once: so slots come free."""
    scarce = False
    for placement in SUSPECTS_FIRST:
        if not state.queue.offers(placement):
            continue
        spread = LeastLoaded(takers(state, placement), at_once=scarce or placement is not Placement.ANYWHERE)
        while (task_id := state.queue.pop(spread.can_serve, placement)) is not None:
            task = state.local_tasks[task_id]
            worker = spread.choose(skills_needed(task), state.last_worker.get(task_id))
            assert worker
            hand_over(state, task, worker, batch, step)
            if placement is not Placement.ALONE:
                spread.put_back(worker)
        left = state.queue.needs(placement)
        scarce = scarce or any(worker.can(needs) for needs in left for worker in state.workers.values())


def takers(state: DistributorState, placement: Placement) -> Iterable[Subordinate]:
    """The workers that a task of this placement may be handed to, whether or not they have room."""
    workers = state.workers.values()
    if placement is not Placement.ALONE:
        return workers
    return [worker for worker in workers if not any(is_on_last_chance(state, task_id) for task_id in worker.in_flight)]


def is_on_last_chance(state: DistributorState, task_id: str) -> bool:
    """Whether it runs for the last time, and a worker has died with it before."""
    if task_id not in state.poison_suspects:
        return False
    task = state.local_tasks[task_id]
    return task.retry_count >= attempts_allowed(state, task)


def recall(state: DistributorState, records: list[Task], mono_ms: int) -> None:
    """Builds the memory from the stored records. A worker that has tasks is expected back until it has been silent
    for the failure timeout; its heartbeats tell what it still has."""
    state.local_tasks = {task.task_id: task for task in records if not task.status.ended and task.status != S.WAITING}
    state.ended.update((task.task_id, None) for task in records if task.task_id not in state.local_tasks)
    for task in sorted(state.local_tasks.values(), key=lambda task: task.started_at or task.created_at):
        if task.status is S.IN_PROGRESS and task.assigned_to:
            name = task.assigned_to
            if name not in state.workers:
                state.workers[name] = Subordinate(Address(Role.WORKER, name), 0, Beat(), mono_ms)
            state.workers[name].take(task.task_id)
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

#: Each of DistributorEvent, by its type.
ON_EVENT: dict[type[Event], Callable[[DistributorState, Any, Batch, Step], None]] = {
    Call: on_call,
    Drain: on_drain,
    HeartbeatDue: on_heartbeat_due,
}

#: Each of DistributorRequest, by its type.
ON_REQUEST: dict[type[Request[Any]], Callable[[DistributorState, Any, Batch, Step], bool | None]] = {
    RegisterWorker: on_register_worker,
    AssignTask: on_assign_to_worker,
    HandBack: on_hand_back,
}
