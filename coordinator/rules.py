"""What a coordinator decides. No I/O, no clock, no randomness: the same state and batch give the same step.

It keeps the durable record of every task, hands open tasks to distributors that have room, joins delegated work again,
and answers clients. This module handles messages, events and requests, and hands tasks out. `task_life` has what
happens to a task, `outcomes` what its distributor says of it, `delegation` and `questions` what it may wait for,
`schedules` what is opened by the clock, `liveness` what is known about the distributors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from msgspec import Raw

from coordinator.admission import note_memory
from coordinator.dead_letters import drop_surplus, keep_message
from coordinator.liveness import (
    judge_distributors,
    note_attempts,
    on_agent_joined,
    on_agent_left,
    on_audited,
    on_beat,
    on_capacity,
    on_not_taken,
    on_taken_over,
)
from coordinator.open_questions import recall_questions
from coordinator.outcomes import conclude
from coordinator.questions import expire_questions, on_answer_question, on_list_questions
from coordinator.quotas import on_set_quota
from coordinator.redrive import on_fetched, on_purge_task, on_replay_task
from coordinator.schedules import (
    fire_schedules,
    on_list_schedules,
    on_pause_schedule,
    on_remove_schedule,
    on_resume_schedule,
    on_set_schedule,
)
from coordinator.state import (
    AssignTask,
    Audited,
    CoordinatorState,
    Fetched,
    NoteAttempts,
    NotTaken,
    RegisterDistributor,
    TakenOver,
)
from coordinator.strategies import on_set_strategy
from coordinator.taking_back import take_back_from_distributors
from coordinator.task_life import (
    accept,
    answer,
    cancel,
    deadlines_of,
    expire,
    follow,
    hand_over,
    is_free,
    reply_to,
    theirs,
)
from coordinator.telling import tell_waiting
from coordinator.threads import recall_lines
from coordinator.usage import release_due
from core.access import owner_of
from core.agents import Subordinate
from core.balancing import Balancer
from core.errors import BadTask, MalformedMessage
from core.event_types import EventType
from core.langgraph_state import AgentStatus
from core.reports import (
    Answer,
    GivenRunKey,
    Refusal,
    TaskReport,
    item_of,
    shown_id,
    task_id_in,
    task_named,
    task_report,
)
from core.roles import Action, Address, Role
from core.status_reports import Beat
from core.step import Batch, Call, Drain, Event, HeartbeatDue, Keyed, Received, Request, Step, Table
from core.strategies import asks_of
from core.submissions import submitted
from core.tasks import Task, TaskError, TaskStatus, check_new, skills_needed, tells

__all__ = ["dispatch", "recall", "receive", "survey"]

S = TaskStatus
#: Length to which the reason for a refusal is cut.
REASON_CHARACTERS = 1_000


def receive(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Handles the messages, in order, and then the events of this process."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, batch, step)
    for event in batch.events:
        ON_EVENT[type(event)](state, event, batch, step)


def survey(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Checks the distributors and the deadlines, once for each heartbeat. Heartbeats are handled after the messages of
    their batch, which were sent before them."""
    for beat in batch.living_beats:
        on_beat(state, beat, batch, step)
    judge_distributors(state, batch, step)
    take_back_from_distributors(state, batch, step)
    expire(state, batch, step)
    expire_questions(state, batch, step)


def on_submit_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Accepts new tasks. A known task does not run again, but this client is told of its end as well."""
    client, message = received.sender, received.message
    refused: list[Refusal] = []
    entry = received.entry_id.decode() if received.signed else None
    before = len(state.local_tasks)
    for index, item in enumerate(message.tasks):
        try:
            task = submitted(item, index, received)
            check_new(task)
            accept(state, task, client, batch, step, submission=entry)
        except BadTask as error:
            refused.append(Refusal(shown_id(task_id_in(item)), str(error)[:REASON_CHARACTERS]))
            step.tell_of(EventType.TASK_REFUSED, refused[-1].task_id, refused[-1].reason)
            state.count("refused")
    if entry and received.signed and len(state.local_tasks) > before:
        keep_message(state, entry, received.signed.pack(), len(state.local_tasks) - before, step)
    answer(received, Answer(refused=tuple(refused)), step)


def place(state: CoordinatorState, task_id: str, distributor_id: str, batch: Batch, step: Step) -> None:
    """Hands a waiting task to a distributor, even if that has no room."""
    if not state.draining and state.queue.remove(task_id):
        hand_over(state, state.local_tasks[task_id], distributor_id, batch, step)


def on_watch_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Tells the client of the end of these tasks, now or when they end. The answer names the unknown ones, and has the
    keys of what runs of others tell."""
    refused = []
    for task_id in map(task_named, received.message.tasks):
        known = theirs(state, task_id, received.sender, batch, step)
        if known is None:
            refused.append(Refusal(shown_id(task_id), "unknown task"))
        else:
            follow(state, known, received.sender, step)
            if tells(known) and known.owner != owner_of(received.sender):  # an owner derives the key itself
                step.send(reply_to(received), Keyed.of(item_of(GivenRunKey(task_id=known.task_id)), known))
    answer(received, Answer(refused=tuple(refused)), step)


def on_cancel_task(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Cancels tasks and their descendants. Ended tasks stay as they are."""
    refused = []
    for task_id in map(task_named, received.message.tasks):
        known = theirs(state, task_id, received.sender, batch, step)
        if known is None:
            refused.append(Refusal(shown_id(task_id), "unknown task"))
        elif not known.status.ended:
            cancel(state, known.task_id, batch, step, again=True)
    answer(received, Answer(refused=tuple(refused)), step)


def on_task_results(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    for item in received.message.tasks:
        try:
            said = task_report(item)
        except MalformedMessage as error:
            step.put_aside(received, item, error)
            if (told := ended_by(item, received.sender.agent_id, error)) is None:
                continue
            said = told
        conclude(state, received.sender.agent_id, said, batch, step)


def ended_by(item: Raw, name: str, error: MalformedMessage) -> TaskReport | None:
    """A report that ends the task which a malformed report names; None if it names none. The task is abandoned, since
    nobody can tell how often it was tried, or whether it succeeded."""
    if (task_id := task_id_in(item)) is None:
        return None
    message = f"distributor {name} sent a malformed report: {error}"
    problem = TaskError(type="malformed_report", message=message, retryable=False)
    return TaskReport(task_id=task_id, status="abandoned", error=problem)


def on_heartbeat_due(state: CoordinatorState, event: HeartbeatDue, batch: Batch, step: Step) -> None:
    if event.memory:
        note_memory(state, event.memory)


def on_drain(state: CoordinatorState, event: Drain, batch: Batch, step: Step) -> None:
    """Stops handing tasks out. They are all stored for a successor."""
    state.draining = True
    step.tell_agent(EventType.AGENT_DRAINING, Address(Role.COORDINATOR, state.agent_id))


def on_call(state: CoordinatorState, call: Call, batch: Batch, step: Step) -> None:
    """Answers a request of the program that holds this agent."""
    call.answer = ON_REQUEST[type(call.request)](state, call.request, batch, step)


def on_assign_task(state: CoordinatorState, request: AssignTask, batch: Batch, step: Step) -> bool | BadTask:
    try:
        accept(state, request.task, None, batch, step, owner=request.owner)
    except BadTask as error:
        return error
    place(state, request.task.task_id, request.distributor_id, batch, step)
    return True


def on_register_distributor(state: CoordinatorState, request: RegisterDistributor, batch: Batch, step: Step) -> bool:
    known = state.metadata.setdefault("registered", [])
    if request.distributor_id not in known:
        known.append(request.distributor_id)
    step.put(Table.HEADER, "registered", orjson.dumps(known))
    return True


def on_note_attempts(state: CoordinatorState, request: NoteAttempts, batch: Batch, step: Step) -> bool:
    note_attempts(state, request.distributor_id, request.had, step)
    return True


def dispatch(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Opens the tasks of due schedules, hands waiting tasks to distributors that have room, tells what the others wait
    for, drops dead letters beyond their bounds, and writes the records of new and changed tasks."""
    fire_schedules(state, batch, step)
    hand_out(state, batch, step)
    if batch.beating:
        tell_waiting(state, batch, step)
    drop_surplus(state, batch, step)
    write_records(state, step)
    state.status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    state.updated_at = batch.now


def hand_out(state: CoordinatorState, batch: Batch, step: Step) -> None:
    state.queue.wake(batch.now_ms)
    release_due(state, batch.now_ms)
    for placed_id, distributor_id in step.placed.items():
        if distributor_id in state.distributors:
            place(state, placed_id, distributor_id, batch, step)
    if state.queue.offers() and not state.draining:
        spread = Balancer(state.distributors.values(), state.strategy, state.turns)
        while (task_id := state.queue.pop(spread.can_serve)) is not None:
            task = state.local_tasks[task_id]
            child = spread.choose(asks_of(task))
            assert child
            hand_over(state, task, child.address.agent_id, batch, step)


def write_records(state: CoordinatorState, step: Step) -> None:
    """Fills in the records that `save` has announced, each once, in its final form."""
    if state.unsaved:
        state.unsaved = False
        records = step.writes[Table.TASKS, ""]
        for task_id, record in records.items():
            if record == b"":
                records[task_id] = state.local_tasks[task_id].to_json()


def recall(state: CoordinatorState, records: list[Task], digests: dict[str, str], mono_ms: int) -> None:
    """Restores the state from the records of open tasks, in the order of their submission, and the digests of ended
    children of waiting tasks. A distributor with tasks counts as active until the failure timeout has passed."""
    state.read_ms = mono_ms
    records = [task for task in records if not task.status.ended]  # somebody else wrote an ended one to Redis
    state.local_tasks = {task.task_id: task for task in records}
    state.deadlines = deadlines_of(state)
    state.digests = digests
    recall_lines(state)
    for task in list(state.local_tasks.values()):
        state.digests.update(task.inputs)
        if task.status is S.PENDING:
            if task.behind is None:
                state.queue.push(task)
        elif task.status is S.WAITING:
            if opened := {child for child in task.awaited if child in state.local_tasks}:
                state.families[task.task_id] = opened
            if is_free(state, task):
                state.deserted.append(task.task_id)
        elif task.assigned_to:
            name = task.assigned_to
            if name not in state.distributors:
                state.distributors[name] = Subordinate(Address(Role.DISTRIBUTOR, name), 0, Beat(), mono_ms)
            state.distributors[name].take(task.task_id, skills_needed(task))
        if task.parent_id and task.root_id:
            state.trees[task.root_id] = state.trees.get(task.root_id, 0) + 1
    recall_questions(state)


#: The handler of each action; `core.roles.ALLOWED` lets no other action through.
ON_MESSAGE: dict[str, Callable[[CoordinatorState, Received, Batch, Step], None]] = {
    Action.SUBMIT_TASK: on_submit_task,
    Action.WATCH_TASK: on_watch_task,
    Action.CANCEL_TASK: on_cancel_task,
    Action.REPLAY_TASK: on_replay_task,
    Action.PURGE_TASK: on_purge_task,
    Action.ANSWER_QUESTION: on_answer_question,
    Action.LIST_QUESTIONS: on_list_questions,
    Action.SET_SCHEDULE: on_set_schedule,
    Action.REMOVE_SCHEDULE: on_remove_schedule,
    Action.PAUSE_SCHEDULE: on_pause_schedule,
    Action.RESUME_SCHEDULE: on_resume_schedule,
    Action.LIST_SCHEDULES: on_list_schedules,
    Action.SET_QUOTA: on_set_quota,
    Action.SET_STRATEGY: on_set_strategy,
    Action.TASK_RESULT: on_task_results,
    Action.AGENT_JOINED: on_agent_joined,
    Action.CAPACITY: on_capacity,
    Action.AGENT_LEFT: on_agent_left,
    Action.BEAT: on_beat,
}

#: The handler of each type in CoordinatorEvent.
ON_EVENT: dict[type[Event], Callable[[CoordinatorState, Any, Batch, Step], None]] = {
    TakenOver: on_taken_over,
    NotTaken: on_not_taken,
    Call: on_call,
    HeartbeatDue: on_heartbeat_due,
    Drain: on_drain,
    Audited: on_audited,
    Fetched: on_fetched,
}

#: The handler of each type in CoordinatorRequest.
ON_REQUEST: dict[type[Request[Any]], Callable[[CoordinatorState, Any, Batch, Step], bool | BadTask]] = {
    AssignTask: on_assign_task,
    RegisterDistributor: on_register_distributor,
    NoteAttempts: on_note_attempts,
}
