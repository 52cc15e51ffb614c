"""What a distributor decides. No I/O, no clock, no randomness: the same state and batch give the same step.

It takes tasks from its coordinator, hands each to a worker that has a handler for it and has room, and passes results
up. This module handles messages, events and requests, and hands tasks out. `task_life` has what happens to a task,
`liveness` what is known about the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Raw, to_builtins

from core.agents import Subordinate
from core.balancing import Balancer
from core.dispatch_queue import Placement
from core.errors import BadTask, MalformedMessage
from core.event_types import EventType
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
from core.status_reports import Beat, Kind
from core.step import Batch, Call, Drain, Event, HeartbeatDue, Received, Request, Sending, Step, Table
from core.strategies import Strategy, asks_of
from core.tasks import Task, TaskError, TaskStatus, check_names, skills_needed
from distributor.exclusions import expire_exclusions
from distributor.liveness import (
    give_back_stranded,
    judge_workers,
    on_agent_joined,
    on_agent_left,
    on_beat,
    write_workers,
)
from distributor.state import (
    AssignTask,
    DistributorState,
    HandBack,
    RegisterWorker,
    room,
)
from distributor.taking_back import on_return_tasks, take_back_from_workers
from distributor.task_life import (
    OUTCOMES,
    attempts_allowed,
    conclude,
    fail,
    give_back,
    hand_over,
    is_own,
    report,
    requeue,
    save,
)

__all__ = ["dispatch", "recall", "receive", "survey"]

S = TaskStatus
#: Looked up once: in Python 3.11 a member of an enum costs as much as two calls.
COMPLETED, SUSPENDED = EventType.ATTEMPT_COMPLETED, EventType.ATTEMPT_SUSPENDED
PENDING, WAITING = S.PENDING, S.WAITING
SUSPECTS_FIRST = (Placement.AT_ONCE, Placement.ALONE, Placement.ANYWHERE)


def tell_capacity(state: DistributorState, step: Step) -> None:
    """Tells the coordinator at once when the room of some kind has changed by more than a quarter, or a kind has come
    or gone. Heartbeats tell smaller changes."""
    now = room(state)
    if has_changed(state.told_kinds, now.kinds):
        state.told_kinds = now.kinds
        step.extras[Sending(state.coordinator, Action.CAPACITY)] = to_builtins(now)


def has_changed(told: Sequence[Kind], now: Sequence[Kind]) -> bool:
    """Whether the coordinator should know at once what has become of the kinds."""
    if [kind.skills for kind in told] != [kind.skills for kind in now]:
        return True
    pairs = (
        (before.capacity + before.agent_capacity, kind.capacity + kind.agent_capacity)
        for before, kind in zip(told, now, strict=True)
    )
    return any(abs(after - before) * 4 > before for before, after in pairs)


def receive(state: DistributorState, batch: Batch, step: Step) -> None:
    """Handles the messages, in order, and then the events of this process."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, batch, step)
    for event in batch.events:
        ON_EVENT[type(event)](state, event, batch, step)


def survey(state: DistributorState, batch: Batch, step: Step) -> None:
    """Checks the workers, once for each heartbeat, and returns tasks that none of them can do. Heartbeats are handled
    after the messages of their batch, which were sent before them."""
    for beat in batch.living_beats:
        on_beat(state, beat, batch, step)
    judge_workers(state, batch, step)
    expire_exclusions(state, batch, step)
    give_back_stranded(state, batch, step)
    take_back_from_workers(state, batch, step)


def on_assign_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes tasks from the coordinator. A message without tasks asks for an answer, which is also without tasks."""
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
    """Ends a malformed task. Otherwise the coordinator would hand it over again and again."""
    step.put_aside(received, item, MalformedMessage("a malformed task"))
    if task_id := task_id_in(item):
        problem = TaskError(type="BadTask", message=f"refused by its distributor: {error}", retryable=False)
        report(state, TaskReport(task_id=task_id, status="abandoned", error=problem), step)


def on_assign_task(state: DistributorState, task: Task, batch: Batch, step: Step) -> None:
    """Takes a task from the coordinator. If it is here already, the assignment was sent twice."""
    if task.task_id in state.local_tasks:
        return
    here = task.evolve(status=PENDING, assigned_to=None)
    state.local_tasks[task.task_id] = here
    if state.draining:
        give_back(state, here, batch, step)
        return
    state.queue.push(here)
    state.fresh.append(task.task_id)
    state.count("assigned")


def on_set_strategy(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Chooses workers by another strategy from now on. One of a later release, which is not known here, is left."""
    told = received.message.payload.get("strategy")
    if isinstance(told, str) and told in list(Strategy):
        state.strategy = Strategy(told)
        step.put(Table.HEADER, "strategy", told.encode())


def on_cancel_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        if task_id := task_named(item):
            on_cancel_task(state, task_id, batch, step)
        else:
            step.put_aside(received, item, MalformedMessage("this is no task id"))


def on_cancel_task(state: DistributorState, task_id: str, batch: Batch, step: Step) -> None:
    """Stops a task in any state. If it is not here, it has ended or never came, so it is reported as cancelled."""
    task = state.local_tasks.get(task_id)
    if task is None:
        report(state, TaskReport(task_id=task_id, status="cancelled"), step)
    elif task.status is S.IN_PROGRESS and task.assigned_to in state.workers:
        worker = state.workers[task.assigned_to]
        save(state, task.evolve(cancel_requested=True), step)
        item = item_of(AttemptName(task_id=task_id, attempt=task.attempt))
        # Any start of a worker that was not heard yet may act on it, since the number of the attempt is the fence.
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
    """A report that fails the attempt which a malformed report names; None if it names none. Another attempt may
    succeed elsewhere."""
    if (attempt := attempt_in(item)) is None:
        return None
    problem = TaskError(type="malformed_report", message=f"worker {name} sent a malformed report: {error}")
    return AttemptReport(task_id=attempt.task_id, attempt=attempt.attempt, status="failed", error=problem)


def on_task_result(state: DistributorState, name: str, said: AttemptReport, batch: Batch, step: Step) -> None:
    """Takes the outcome of an attempt. Only the first outcome of the current attempt has an effect; others are counted
    as late and dropped."""
    task = state.local_tasks.get(said.task_id)
    if task is None or not (has_it(task, name, said) or completed_after_all(task, name, said)):
        state.count("late_results")
        return
    status = said.status
    worker = state.workers.get(name)
    if worker:
        if said.run_ms is not None and not worker.is_run(task.task_id):
            worker.pace.ran(said.run_ms)
        worker.drop(task.task_id)
        if status == "returned" and not said.asked:
            worker.mark_draining()
    if status == "returned":
        step.tell(EventType.ATTEMPT_CANCELLED, task, name, task.attempt, "taken back" if said.asked else "returned")
        state.count("returned")
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
    elif status == "failed":
        fail(state, task, name, said, batch, step)
    elif status == "cancelled":
        step.tell(EventType.ATTEMPT_CANCELLED, task, name, task.attempt)
        conclude(state, task, S.CANCELLED, batch, step, said, worker=name)
    elif OUTCOMES[status] is WAITING and is_own(task):
        fail(state, task, name, nobody_lets_it_go_on(said), batch, step)
    else:
        outcome = OUTCOMES[status]
        if task.assigned_to == name:  # of the other one it was told that it is lost
            step.tell(SUSPENDED if outcome is WAITING else COMPLETED, task, name, task.attempt, said.run_ms)
        conclude(state, task, outcome, batch, step, said, worker=name)


def has_it(task: Task, name: str, said: AttemptReport) -> bool:
    """Whether a worker speaks of the attempt that it has been handed."""
    return (task.attempt, task.assigned_to) == (said.attempt, name)


def completed_after_all(task: Task, name: str, said: AttemptReport) -> bool:
    """Whether a worker that was taken for gone has completed a task that no other one has been handed since. Its result
    is as good as another attempt's, which would run its last nodes again."""
    if task.assigned_to is not None or said.status != "completed" or not task.errors:
        return False
    lost = task.errors[-1]
    return (lost.type, lost.worker, lost.attempt, task.attempt) == ("worker_lost", name, said.attempt, said.attempt)


def nobody_lets_it_go_on(said: AttemptReport) -> AttemptReport:
    """The report of an attempt at a task that a program has assigned here, and that would have to wait for others."""
    message = "it waits for others, and only a coordinator would let it go on: submit it, instead of assigning it here"
    problem = TaskError(type="BadTask", message=message, retryable=False)
    return AttemptReport(task_id=said.task_id, attempt=said.attempt, status="failed", run_ms=said.run_ms, error=problem)


def on_task_progress(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Shows the progress of attempts in the shared state until their tasks end."""
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
    """Stops accepting tasks, and gives those back that no worker has."""
    state.draining = True
    step.tell_agent(EventType.AGENT_DRAINING, Address(Role.DISTRIBUTOR, state.agent_id))
    for task in list(state.local_tasks.values()):
        if task.status is S.PENDING:
            give_back(state, task, batch, step)


def place(state: DistributorState, task_id: str, worker_id: str, batch: Batch, step: Step) -> None:
    """Hands a waiting task to a worker, even if that has no room. A suspected poison task keeps waiting for a worker to
    which it may be handed."""
    worker = state.workers.get(worker_id)
    if worker is not None and task_id not in state.poison_suspects and state.queue.remove(task_id):
        hand_over(state, state.local_tasks[task_id], worker, batch, step)


def on_call(state: DistributorState, call: Call, batch: Batch, step: Step) -> None:
    """Answers a request of the program that holds this agent."""
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
            step.tell(EventType.ATTEMPT_CANCELLED, task, task.assigned_to, task.attempt, "handed back")
        give_back(state, task, batch, step)


def on_heartbeat_due(state: DistributorState, event: HeartbeatDue, batch: Batch, step: Step) -> None:
    """Does nothing, since `survey` checks the workers."""


def dispatch(state: DistributorState, batch: Batch, step: Step) -> None:
    """Hands waiting tasks to workers that have room, and stores those that arrived in this step."""
    tell_capacity(state, step)
    state.queue.wake(batch.now_ms)
    for task_id, worker_id in step.placed.items():
        place(state, task_id, worker_id, batch, step)
    hand_out(state, batch, step)
    for task_id in state.fresh:
        fresh = state.local_tasks.get(task_id)
        if fresh is not None and fresh.status is PENDING:
            save(state, fresh, step)
    state.fresh.clear()
    status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    if status is not state.status:
        state.status = status
        step.put(Table.HEADER, "status", status.value.encode())
    state.updated_at = batch.now


def hand_out(state: DistributorState, batch: Batch, step: Step) -> None:
    """Hands out waiting tasks as far as workers have room, suspected poison tasks first. While one of those waits for a
    free slot, no worker gets more tasks than it begins at once, so that slots become free."""
    scarce = False
    for placement in SUSPECTS_FIRST:
        if not state.queue.offers(placement):
            continue
        at_once = scarce or placement is not Placement.ANYWHERE
        spread = Balancer(
            takers(state, placement), state.strategy, state.turns, at_once=at_once, waiting=state.queue.needs()
        )
        while (task_id := state.queue.pop(spread.can_serve, placement)) is not None:
            task = state.local_tasks[task_id]
            worker = spread.choose(asks_of(task), state.last_worker.get(task_id))
            assert worker
            hand_over(state, task, worker, batch, step)
            if placement is Placement.ALONE:
                spread.exclude(worker)
        left = state.queue.needs(placement)
        scarce = scarce or any(
            worker.can(needs) and not worker.hosts(needs) for needs in left for worker in state.workers.values()
        )


def takers(state: DistributorState, placement: Placement) -> Iterable[Subordinate]:
    """The workers that a task of this placement may be handed to, whether or not they have room."""
    workers = state.workers.values()
    if placement is not Placement.ALONE:
        return workers
    return [worker for worker in workers if not any(is_on_last_chance(state, task_id) for task_id in worker.in_flight)]


def is_on_last_chance(state: DistributorState, task_id: str) -> bool:
    """Whether this is the last attempt at a suspected poison task."""
    if task_id not in state.poison_suspects:
        return False
    task = state.local_tasks[task_id]
    return task.retry_count >= attempts_allowed(state, task)


def recall(state: DistributorState, records: list[Task], mono_ms: int) -> None:
    """Restores the state from the stored records. A worker with tasks counts as active until it has been silent for the
    failure timeout; its heartbeats tell which tasks it still has."""
    state.read_ms = mono_ms
    state.local_tasks = {task.task_id: task for task in records if not task.status.ended and task.status != S.WAITING}
    state.ended.update((task.task_id, None) for task in records if task.task_id not in state.local_tasks)
    for task in sorted(state.local_tasks.values(), key=lambda task: task.started_at or task.created_at):
        if task.status is S.IN_PROGRESS and task.assigned_to:
            name = task.assigned_to
            if name not in state.workers:
                state.workers[name] = Subordinate(Address(Role.WORKER, name), 0, Beat(), mono_ms)
            state.workers[name].take(task.task_id, skills_needed(task))
        else:
            state.queue.push(task)


#: The handler of each action; `core.roles.ALLOWED` lets no other action through.
ON_MESSAGE: dict[str, Callable[[DistributorState, Received, Batch, Step], None]] = {
    Action.ASSIGN_TASK: on_assign_tasks,
    Action.CANCEL_TASK: on_cancel_tasks,
    Action.RETURN_TASK: on_return_tasks,
    Action.SET_STRATEGY: on_set_strategy,
    Action.TASK_RESULT: on_task_results,
    Action.TASK_PROGRESS: on_task_progress,
    Action.AGENT_JOINED: on_agent_joined,
    Action.AGENT_LEFT: on_agent_left,
    Action.BEAT: on_beat,
}

#: The handler of each type in DistributorEvent.
ON_EVENT: dict[type[Event], Callable[[DistributorState, Any, Batch, Step], None]] = {
    Call: on_call,
    Drain: on_drain,
    HeartbeatDue: on_heartbeat_due,
}

#: The handler of each type in DistributorRequest.
ON_REQUEST: dict[type[Request[Any]], Callable[[DistributorState, Any, Batch, Step], bool | None]] = {
    RegisterWorker: on_register_worker,
    AssignTask: on_assign_to_worker,
    HandBack: on_hand_back,
}
