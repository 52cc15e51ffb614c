"""What a coordinator decides. No I/O, no clock, no chance: the same state and batch give the same step.

It keeps the durable record of every task, hands open ones to distributors that have room, puts delegated work together
again, and answers clients. One function for each thing that can come in; `dispatch` at the end of every step.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from core.agents import Beat, Child, Health, Held
from core.balancing import LeastLoaded
from core.dispatch_queue import DispatchQueue
from core.errors import BadTask
from core.langgraph_state import AgentStatus, LocalAgentState
from core.roles import Action, Address, Role
from core.step import Batch, Call, Drain, Received, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, Then, check_size, skills_needed

__all__ = [
    "Audit",
    "Audited",
    "CoordinatorState",
    "NotTaken",
    "Sweep",
    "TakeOver",
    "TakenOver",
    "dispatch",
    "has_work",
    "listen",
    "recall",
]

S = TaskStatus
#: What the coordinator wants of a task it has handed over.
WANT_RUN, WANT_STOP = b'{"want":"assigned"}', b'{"want":"cancelled"}'
#: How often ended tasks beyond their retention are looked for.
SWEEP_EVERY_MS = 10_000


@dataclass(slots=True)
class CoordinatorState(LocalAgentState):
    """The memory of a coordinator: `local_tasks` are all open tasks."""

    failure_timeout_ms: int = 5_000
    max_open_tasks: int = 200_000
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    distributors: dict[str, Child] = field(default_factory=dict)
    families: dict[str, set[str]] = field(default_factory=dict)  #: waiting task -> its children that are open
    digests: dict[str, str] = field(default_factory=dict)  #: ended child of an open parent -> sha256 of its record
    deadlines: list[tuple[int, str]] = field(default_factory=list)  #: heap of (ms, task id)
    moving: set[str] = field(default_factory=set)  #: distributors whose tasks are being taken over
    incarnation: int = 0  #: of this coordinator
    draining: bool = False
    unsaved: bool = False  #: a task has changed in this step and its record is to be written at its end
    sweep_due_ms: int = 0
    counts: dict[str, int] = field(default_factory=dict)  #: since the start: accepted, completed, failed, ...

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Effect: take the cell of a distributor that is gone, empty it, and tell how far its tasks were."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Event: the cell is empty and fenced. `begun`: task id -> (attempt, attempts that began), where known."""

    distributor_id: str
    begun: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Audit:
    """Effect: read which tasks are stored with a distributor, and the number of its heartbeat."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class Audited:
    """Event: what was found."""

    distributor_id: str
    held: Held


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Event: the distributor still holds its lease, or Redis was away; it is judged again."""

    distributor_id: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Effect: forget tasks that ended before `before_ms`; those in `keep` are inputs of an open parent."""

    before_ms: int
    keep: frozenset[str]


# ---- what comes in ----


def listen(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Takes a batch into the state: messages in order, then heartbeats, which are younger than the messages that lay
    in the inbox before them, then what happened in this process."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, batch, step)
    for beat in batch.beats:
        on_beat(state, beat, batch, step)
    for event in batch.events:
        if on_event := ON_EVENT.get(type(event)):
            on_event(state, event, batch, step)
    judge_distributors(state, batch, step)
    expire(state, batch, step)
    state.queue.wake(batch.now_ms)
    state.status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    state.updated_at = batch.now


def has_work(state: CoordinatorState) -> bool:
    """Whether `dispatch` has anything to do after `listen`."""
    return state.unsaved or bool(state.queue.lanes)


def on_submit_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Accepts new tasks. One that is known already is not run again: its end is told to this client as well."""
    client, message = received.sender, received.message
    refused: list[dict[str, str]] = []
    for item in message.tasks:
        try:
            task = Task.parse(item)
            accept(state, task, client, batch, step)
        except BadTask as error:
            task_id = item.get("task_id") if isinstance(item, dict) else None
            refused.append({"task_id": str(task_id), "reason": str(error)})
            state.count("refused")
    reply = Sending(client, Action.TASK_ACCEPTED, message.metadata.request_id)
    step.extras[reply] = {"refused": refused} if refused else {}


def accept(state: CoordinatorState, task: Task, client: Address | None, batch: Batch, step: Step) -> None:
    """Makes `task` an open one, or joins `client` to it if it is. Raises BadTask: nothing of it is kept."""
    known = state.local_tasks.get(task.task_id)
    ended = batch.stored.get(task.task_id)
    if known is None and ended is not None:
        known = Task.parse(orjson.loads(ended))
    if known is not None:
        same = known.children or (known.task_type, known.payload) == (task.task_type, task.payload)
        if known.parent_id or not same:
            raise BadTask(f"task id {task.task_id!r} is in use for another task; choose another id")
        if client:
            watch(state, known, client, step)
        return
    if state.draining:
        raise BadTask("the coordinator is draining; submit again when it is back")
    if len(state.local_tasks) >= state.max_open_tasks:
        raise BadTask(
            f"{len(state.local_tasks)} tasks are open, the most this coordinator admits (MAX_OPEN_TASKS);"
            " submit again when some have ended"
        )
    check_size(f"payload of task {task.task_id!r}", task.payload)
    if task.deadline and task.deadline.tzinfo is None:
        raise BadTask("task field 'deadline': needs a time zone, such as datetime.now(UTC)")
    admit(
        state,
        task.evolve(
            status=S.PENDING, created_at=batch.now, root_id=task.task_id, parent_id=None, retry_count=0,
            attempt=0, result=None, error=None, assigned_to=None, children=(), then=None, inputs=(),
            started_at=None, completed_at=None, cancel_requested=False,
            reply_to=(client.agent_id,) if client else (),
        ),
        batch,
        step,
    )  # fmt: skip


def admit(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> None:
    """Opens a task that was checked, and lines it up."""
    state.queue.push(task)
    if task.deadline:
        heapq.heappush(state.deadlines, (int(task.deadline.timestamp() * 1000), task.task_id))
    step.put(Table.OPEN, task.task_id, batch.now_ms)
    save(state, task, step)
    state.count("accepted")


def on_watch_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Tells the client of the end of these tasks: now, or when they end. The answer names those nobody knows."""
    refused = []
    for item in received.message.tasks:
        task_id = str(item)
        known = state.local_tasks.get(task_id)
        if known is None and (record := batch.stored.get(task_id)):
            known = Task.parse(orjson.loads(record))
        if known is None:
            refused.append({"task_id": task_id, "reason": "unknown task"})
        else:
            watch(state, known, received.sender, step)
    step.extras[Sending(received.sender, Action.TASK_ACCEPTED, received.message.metadata.request_id)] = {
        "refused": refused
    }


def watch(state: CoordinatorState, task: Task, client: Address, step: Step) -> None:
    if task.status.ended:
        step.send(Sending(client, Action.TASK_RESULT), task.to_json())
    elif client.agent_id not in task.reply_to:
        save(state, task.evolve(reply_to=(*task.reply_to, client.agent_id)), step)


def on_cancel_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Cancels tasks with their subtrees. What has ended stays as it is."""
    refused = []
    for item in received.message.tasks:
        task_id = str(item)
        if task_id in state.local_tasks:
            cancel(state, task_id, batch, step)
        elif task_id not in batch.stored:
            refused.append({"task_id": task_id, "reason": "unknown task"})
    step.extras[Sending(received.sender, Action.TASK_ACCEPTED, received.message.metadata.request_id)] = {
        "refused": refused
    }


def cancel(state: CoordinatorState, task_id: str, batch: Batch, step: Step) -> None:
    """Ends a task that nobody runs, asks for the end of one that somebody does; its children likewise."""
    task = state.local_tasks.get(task_id)
    if task is None or task.cancel_requested:
        return
    for child_id in sorted(state.families.get(task_id, ())):
        cancel(state, child_id, batch, step)
    task = state.local_tasks.get(task_id)
    if task is None:
        return  # ended with the last of its children
    if task.status is S.IN_PROGRESS and task.assigned_to:
        save(state, task.evolve(cancel_requested=True), step)
        step.put(Table.WANTED, task_id, WANT_STOP, task.assigned_to)
        address = Address(Role.DISTRIBUTOR, task.assigned_to)
        step.send(Sending(address, Action.CANCEL_TASK), orjson.dumps(task_id))
    else:
        end(state, task, S.CANCELLED, batch, step)


def on_task_results(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        on_task_result(state, received.sender.agent_id, item, batch, step)


def on_task_result(
    state: CoordinatorState, distributor_id: str, item: dict[str, Any], batch: Batch, step: Step
) -> None:
    """Records how a task ended, the first time its distributor says so; everything later is counted and dropped."""
    task = state.local_tasks.get(item["task_id"])
    if task is None or task.assigned_to != distributor_id:
        state.count("late_results")
        return
    child = state.distributors.get(distributor_id)
    if child:
        child.in_flight.pop(task.task_id, None)
    step.remove(Table.WANTED, task.task_id, distributor_id)
    status = item["status"]
    attempts = {"retry_count": item.get("retry_count", task.retry_count), "attempt": item.get("attempt", task.attempt)}
    if status == "returned":
        requeue(state, task, batch, step, **attempts)
    elif status == "delegated":
        delegate(state, task.evolve(**attempts), item, batch, step)
    else:
        error = item.get("error")
        if status == S.CANCELLED and task.deadline and task.deadline <= batch.now:
            status, error = S.ABANDONED, {"type": "deadline", "message": "the deadline passed while it was run"}
        end(
            state, task, S(status), batch, step,
            result=item.get("result"),
            error=TaskError.model_validate(error) if error else None,
            started_at=datetime.fromisoformat(item["started_at"]) if item.get("started_at") else task.started_at,
            worker=item.get("worker"), **attempts,
        )  # fmt: skip


def requeue(state: CoordinatorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """Back in line, for any distributor; a task that is to be cancelled ends here instead."""
    if task.cancel_requested:
        end(state, task, S.CANCELLED, batch, step, **changes)
        return
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step)
    state.queue.push(again)


def delegate(state: CoordinatorState, task: Task, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """Opens the children of a task that spawned; it waits for them."""
    try:
        children = [Task.parse(child) for child in item["children"]]
        ids = [child.task_id for child in children]
        taken = [child_id for child_id in ids if child_id in state.local_tasks or ids.count(child_id) > 1]
        if taken:
            raise BadTask(f"child id {taken[0]!r} is in use already")
        for child in children:
            check_size(f"payload of child {child.task_id!r}", child.payload)
    except BadTask as error:
        problem = TaskError(type="BadTask", message=f"spawn: {error}", attempt=task.attempt, retryable=False)
        end(state, task, S.FAILED, batch, step, error=problem)
        return
    then = Then.model_validate({**(item.get("then") or {}), "spawned": len(children)})
    if task.cancel_requested:
        end(state, task, S.CANCELLED, batch, step)
        return
    waiting = task.moved(S.WAITING, batch.now, children=(*task.children, *ids), then=then, inputs=(), assigned_to=None)
    save(state, waiting, step)
    state.families[task.task_id] = set(ids)
    for child in children:
        deadlines = [moment for moment in (task.deadline, child.deadline) if moment]
        admit(
            state,
            child.evolve(
                parent_id=task.task_id, root_id=task.root_id or task.task_id, created_at=batch.now,
                deadline=min(deadlines) if deadlines else None, status=S.PENDING, reply_to=(), attempt=0,
                retry_count=0, result=None, error=None, assigned_to=None, cancel_requested=False,
            ),
            batch,
            step,
        )  # fmt: skip
    if not children:
        proceed(state, waiting, batch, step)


def proceed(state: CoordinatorState, parent: Task, batch: Batch, step: Step) -> None:
    """All children have ended: the parent goes on as its continuation, which is told their records' digests."""
    assert parent.then
    state.families.pop(parent.task_id, None)
    newest = parent.children[len(parent.children) - parent.then.spawned :]
    inputs = tuple((child, state.digests.pop(child)) for child in newest)
    again = parent.moved(
        S.PENDING, batch.now, task_type=parent.then.task_type or "agents.gather", payload=parent.then.payload,
        inputs=inputs, retry_count=0,
    )  # fmt: skip
    save(state, again, step)
    state.queue.push(again)


def end(
    state: CoordinatorState, task: Task, status: TaskStatus, batch: Batch, step: Step, *, worker: str | None = None,
    **changes: Any,
) -> None:  # fmt: skip
    """Records the end of a task, tells who asked, and lets its parent go on."""
    if worker:
        changes["assigned_to"] = f"{task.assigned_to}/{worker}"
    ended = task.moved(status, batch.now, **changes)
    record = ended.to_json()
    del state.local_tasks[task.task_id]
    state.queue.remove(task.task_id)
    state.families.pop(task.task_id, None)
    for child_id in task.children:
        state.digests.pop(child_id, None)
    step.put(Table.TASKS, task.task_id, record)
    step.remove(Table.OPEN, task.task_id)
    step.put(Table.ENDED, task.task_id, batch.now_ms)
    step.changes[task.task_id] = status
    state.count(status)
    for client_id in task.reply_to:
        step.send(Sending(Address(Role.CLIENT, client_id), Action.TASK_RESULT), record)
    parent = state.local_tasks.get(task.parent_id) if task.parent_id else None
    if parent is not None and parent.status is S.WAITING:
        state.digests[task.task_id] = hashlib.sha256(record).hexdigest()
        siblings = state.families[parent.task_id]
        siblings.discard(task.task_id)
        if not siblings and not parent.cancel_requested:
            proceed(state, parent, batch, step)


# ---- the distributors ----


def on_beat(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """A distributor is here, or still here."""
    beat = Beat.model_validate(received.message.payload)
    incarnation = received.message.metadata.incarnation
    name = received.sender.agent_id
    child = state.distributors.get(name)
    if child is None:
        child = state.distributors[name] = Child(received.sender, 0, beat, batch.mono_ms)
        child.in_flight = {
            task.task_id: task.attempt for task in state.local_tasks.values() if task.assigned_to == name
        }
    elif (incarnation, beat.beat) < (child.incarnation, child.beat.beat):
        return  # an older heartbeat than the one we know
    if child.incarnation != incarnation:
        child.incarnation = incarnation
        child.probe = child.held = None
        step.note("distributor_joined", distributor=name, capacity=beat.capacity)
        step.put(Table.HEADER, "distributors", orjson.dumps(sorted(state.distributors)))
    child.heard(beat, batch.mono_ms)
    if received.message.action == Action.BEAT:
        audit(state, child, batch, step)


def audit(state: CoordinatorState, child: Child, batch: Batch, step: Step) -> None:
    """Finds what a distributor was handed and neither has nor has reported: a stream that was emptied, a hash that
    was deleted. Over several heartbeats: first it must have read what was sent, then its cell is looked at, then all
    that it had sent by a later heartbeat must have been taken."""
    if child.held is not None and child.probe is not None:
        if child.beat.beat > child.held.beat and batch.taken_from(child.address) >= child.beat.sent:
            for task_id in child.missing(child.held.tasks.difference(child.beat.ended)):
                child.in_flight.pop(task_id)
                state.count("missing")
                step.remove(Table.WANTED, task_id, child.address.agent_id)
                requeue(state, state.local_tasks[task_id], batch, step)
    elif child.has_read(state.incarnation):
        step.effects.append(Audit(child.address.agent_id))
    child.ask(batch.sent.get(child.address, 0))


def on_audited(state: CoordinatorState, event: Audited, batch: Batch, step: Step) -> None:
    child = state.distributors.get(event.distributor_id)
    if child is not None and child.probe is not None:
        child.held = event.held


def on_capacity(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """A distributor can take more, or less, than its last heartbeat said."""
    child = state.distributors.get(received.sender.agent_id)
    if child and child.incarnation == received.message.metadata.incarnation:
        payload = received.message.payload
        beat = child.beat.model_copy(
            update={"capacity": int(payload["capacity"]), "capabilities": tuple(payload["capabilities"])}
        )
        child.heard(beat, child.moved_ms)


def on_agent_left(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """A distributor has handed everything back and stops."""
    name = received.sender.agent_id
    child = state.distributors.get(name)
    if child and not child.in_flight:
        del state.distributors[name]
        step.put(Table.HEADER, "distributors", orjson.dumps(sorted(state.distributors)))
    elif child:
        child.health = Health.GONE
    step.note("distributor_left", distributor=name)


def judge_distributors(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Notices who has fallen silent; the tasks of one that is gone are taken over, if anybody else could have them."""
    for name, child in list(state.distributors.items()):
        health = Health.GONE if child.health is Health.GONE else child.judge(batch.mono_ms, state.failure_timeout_ms)
        if health is not child.health:
            step.note("distributor_" + health, distributor=name, in_flight=len(child.in_flight))
            child.health = health
        if health is Health.GONE and name not in state.moving:
            others = any(other.health is Health.ACTIVE for other in state.distributors.values())
            if not child.in_flight:
                del state.distributors[name]
            elif others:  # without another, its own successor is the best hope its tasks have
                state.moving.add(name)
                step.effects.append(TakeOver(name))


def on_taken_over(state: CoordinatorState, event: TakenOver, batch: Batch, step: Step) -> None:
    """The cell of a distributor that is gone is empty: its tasks go back in line, with the attempts they have had."""
    state.moving.discard(event.distributor_id)
    state.distributors.pop(event.distributor_id, None)
    moved = 0
    for task in list(state.local_tasks.values()):
        if task.assigned_to != event.distributor_id or task.status is not S.IN_PROGRESS:
            continue
        attempt, began = event.begun.get(task.task_id, (task.attempt, task.retry_count))
        step.remove(Table.WANTED, task.task_id, event.distributor_id)
        requeue(state, task, batch, step, attempt=attempt, retry_count=began)
        moved += 1
    state.count("moved", moved)
    step.note("tasks_moved", distributor=event.distributor_id, tasks=moved)


# ---- time ----


def expire(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Abandons what is past its deadline and has the records of long ended tasks swept."""
    while state.deadlines and state.deadlines[0][0] <= batch.now_ms:
        task_id = heapq.heappop(state.deadlines)[1]
        task = state.local_tasks.get(task_id)
        if task is None:
            continue
        if task.status is S.IN_PROGRESS or task.status is S.WAITING:
            cancel(state, task_id, batch, step)  # running parts end first; the deadline is their time limit too
        else:
            problem = TaskError(type="deadline", message="the deadline passed before it was run", retryable=False)
            end(state, task, S.ABANDONED, batch, step, error=problem)
    if batch.now_ms >= state.sweep_due_ms:
        state.sweep_due_ms = batch.now_ms + SWEEP_EVERY_MS
        step.effects.append(Sweep(batch.now_ms, frozenset(state.digests)))


# ---- what happened in this process ----


def on_not_taken(state: CoordinatorState, event: NotTaken, batch: Batch, step: Step) -> None:
    state.moving.discard(event.distributor_id)


def on_drain(state: CoordinatorState, event: Drain, batch: Batch, step: Step) -> None:
    """Hands nothing out any more; all it has is stored for its successor."""
    state.draining = True


def on_call(state: CoordinatorState, call: Call, batch: Batch, step: Step) -> None:
    """What a program that holds this agent asks of it."""
    if call.name == "assign":
        task, distributor_id = call.argument
        try:
            accept(state, task, None, batch, step)
        except BadTask as error:
            call.answer = error
            return
        fresh = state.local_tasks.get(task.task_id)
        if fresh is not None and fresh.task_id in state.queue:
            state.queue.remove(fresh.task_id)
            hand_over(state, fresh, distributor_id, batch, step)
        call.answer = True
    elif call.name == "register":
        known = state.metadata.setdefault("registered", [])
        if call.argument not in known:
            known.append(call.argument)
        step.put(Table.HEADER, "registered", orjson.dumps(known))
        call.answer = True


# ---- handing over ----


def dispatch(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Hands waiting tasks to distributors that have room, and writes the records of this step's new and changed
    tasks, each once and as it is now."""
    if state.queue.lanes and not state.draining:
        spread = LeastLoaded(state.distributors.values())
        while (task_id := state.queue.pop(spread.can_serve)) is not None:
            task = state.local_tasks[task_id]
            child = spread.choose(skills_needed(task))
            assert child
            hand_over(state, task, child.address.agent_id, batch, step)
            spread.took(child)
    records = step.writes.get((Table.TASKS, ""), {})
    for task_id, record in records.items():
        if record == b"":
            records[task_id] = state.local_tasks[task_id].to_json()
    state.unsaved = False


def hand_over(state: CoordinatorState, task: Task, distributor_id: str, batch: Batch, step: Step) -> None:
    handed = task.moved(S.IN_PROGRESS, batch.now, assigned_to=distributor_id)
    state.local_tasks[task.task_id] = handed
    child = state.distributors.get(distributor_id)
    if child:
        child.in_flight[task.task_id] = handed.attempt
    record = handed.to_json()
    step.put(Table.TASKS, task.task_id, record)
    step.put(Table.WANTED, task.task_id, WANT_RUN, distributor_id)
    step.send(Sending(Address(Role.DISTRIBUTOR, distributor_id), Action.ASSIGN_TASK), record)
    step.changes[task.task_id] = S.IN_PROGRESS


def save(state: CoordinatorState, task: Task, step: Step) -> None:
    """Remembers a changed task; its record is written at the end of the step, as it is then."""
    state.local_tasks[task.task_id] = task
    state.unsaved = True
    step.put(Table.TASKS, task.task_id, b"")
    step.changes[task.task_id] = task.status


def recall(state: CoordinatorState, records: list[Task], digests: dict[str, str], mono_ms: int) -> None:
    """Builds the memory from the stored records of open tasks, in the order they were submitted, and the digests of
    ended children of waiting ones. A distributor that has tasks is expected back for the failure timeout."""
    state.local_tasks = {task.task_id: task for task in records}
    state.digests = digests
    for task in records:
        if task.deadline:
            heapq.heappush(state.deadlines, (int(task.deadline.timestamp() * 1000), task.task_id))
        if task.status is S.PENDING:
            state.queue.push(task)
        elif task.status is S.WAITING and task.then:
            newest = task.children[len(task.children) - task.then.spawned :]
            state.families[task.task_id] = {child for child in newest if child in state.local_tasks}
        elif task.assigned_to:
            name = task.assigned_to
            if name not in state.distributors:
                state.distributors[name] = Child(Address(Role.DISTRIBUTOR, name), 0, Beat(), mono_ms)
            state.distributors[name].in_flight[task.task_id] = task.attempt


#: What may come in a message: `core.roles.ALLOWED` lets nothing else through.
ON_MESSAGE: dict[str, Callable[[CoordinatorState, Received, Batch, Step], None]] = {
    Action.SUBMIT_TASK: on_submit_task,
    Action.WATCH_TASK: on_watch_task,
    Action.CANCEL_TASK: on_cancel_task,
    Action.TASK_RESULT: on_task_results,
    Action.AGENT_JOINED: on_beat,
    Action.CAPACITY: on_capacity,
    Action.AGENT_LEFT: on_agent_left,
    Action.BEAT: on_beat,
}

ON_EVENT: dict[type, Callable[[CoordinatorState, Any, Batch, Step], None]] = {
    TakenOver: on_taken_over,
    NotTaken: on_not_taken,
    Call: on_call,
    Drain: on_drain,
    Audited: on_audited,
}
