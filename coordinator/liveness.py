"""Which distributors of a coordinator live, which are gone, and which tasks they have lost. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from msgspec.structs import asdict, replace

from coordinator.state import Audit, Audited, CoordinatorState, NotTaken, TakenOver, TakeOver
from coordinator.strategies import tell_strategy
from coordinator.task_life import attempts_had, requeue, save
from core.agents import Health, Subordinate, discount_silence
from core.attempt_errors import errors_with
from core.durations import Duration
from core.event_types import EventType
from core.roles import Action
from core.status_reports import Beat
from core.step import Batch, Received, Sending, Step, Table
from core.tasks import Task, TaskError, TaskStatus, skills_needed
from core.telling import tell_health

__all__ = [
    "judge_distributors", "note_attempts", "on_agent_joined", "on_agent_left", "on_audited", "on_beat", "on_capacity",
    "on_not_taken", "on_taken_over",
]  # fmt: skip

S = TaskStatus


def on_agent_joined(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes the greeting of a distributor."""
    note_report(state, received, batch, step)


def on_beat(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes a heartbeat of a distributor, which also tells how far it has come with what it was handed."""
    if child := note_report(state, received, batch, step):
        reconcile(state, child, batch, step)


def note_report(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> Subordinate | None:
    """Notes what a distributor reports about itself; None: that is nothing new, or was left behind by a dead one."""
    beat = received.status
    assert isinstance(beat, Beat)
    incarnation = received.message.metadata.incarnation
    name = received.sender.agent_id
    child = state.distributors.get(name)
    if (child is None or not child.incarnation) and batch.age_ms(received) >= state.failure_timeout_ms:
        if child is None:
            remove_distributor(state, name, step)
        return None  # a distributor left it behind that died before this coordinator started
    if child is None:
        child = state.distributors[name] = Subordinate(received.sender, 0, beat, batch.mono_ms)
        for task in state.local_tasks.values():
            if task.assigned_to == name:
                child.take(task.task_id, skills_needed(task))
    elif (incarnation, beat.beat) <= (child.incarnation, child.beat.beat):
        return None  # it brings nothing new, and may be older than a capacity message that has come since
    if child.incarnation != incarnation:
        child.incarnation = incarnation
        child.probe.restart()
        step.note("distributor_joined", distributor=name, capacity=beat.capacity)
        step.tell_agent(EventType.AGENT_JOINED, child.address)
        step.put(Table.HEADER, "distributors", orjson.dumps(sorted(state.distributors)))
    tell_health(child, Health.ACTIVE, step)
    child.update(beat, batch.mono_ms)
    tell_strategy(state, child, step)
    return child


def remove_distributor(state: CoordinatorState, name: str, step: Step) -> None:
    """Forgets a distributor that is gone, with its last heartbeat."""
    if state.distributors.pop(name, None):
        step.put(Table.HEADER, "distributors", orjson.dumps(sorted(state.distributors)))
    step.remove(Table.HEARTBEATS, name)


def reconcile(state: CoordinatorState, child: Subordinate, batch: Batch, step: Step) -> None:
    """Advances the probe of a distributor by a heartbeat (see core.reconciliation), and queues the tasks again that it
    has lost. Its tasks are read from its cell, so this takes one heartbeat more than with a worker."""
    probe = child.probe
    if probe.hear_out(child.beat, batch.taken_from(child.address)):
        step.measure(Duration.RECONCILIATION, batch.mono_ms - probe.since_ms)
        for task_id in probe.judge(child.in_flight, child.beat.ended):
            child.drop(task_id)
            state.count("missing")
            step.remove(Table.WANTED, task_id, child.address.agent_id)
            requeue(state, state.local_tasks[task_id], batch, step, why="it had not arrived")
    elif probe.read(child.beat, state.incarnation):
        step.effects.append(Audit(child.address.agent_id, probe.since_ms))
    if probe.expire(batch.mono_ms, state.failure_timeout_ms):
        step.extras.setdefault(Sending(child.address, Action.ASSIGN_TASK), {})
    probe.ask(child.in_flight, batch.sent.get(child.address, 0), batch.mono_ms, step.changes)


def on_audited(state: CoordinatorState, event: Audited, batch: Batch, step: Step) -> None:
    """Takes the outcome of an audit, if it belongs to the current probe."""
    child = state.distributors.get(event.distributor_id)
    if child is not None:
        child.probe.look(event.held, event.probe_ms)


def on_capacity(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Notes that a distributor has room for more or fewer tasks than its last heartbeat said."""
    child = state.distributors.get(received.sender.agent_id)
    if child and child.incarnation == received.message.metadata.incarnation:
        assert received.status
        child.update(replace(child.beat, **asdict(received.status)), child.moved_ms)


def on_agent_left(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Notes that a distributor leaves, after it has handed its tasks back."""
    name = received.sender.agent_id
    child = state.distributors.get(name)
    if child and not child.in_flight:
        remove_distributor(state, name, step)
    elif child:
        child.health = Health.GONE
    step.note("distributor_left", distributor=name)
    step.tell_agent(EventType.AGENT_LEFT, received.sender)


def judge_distributors(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Notices which distributors have fallen silent. The tasks of one that is gone are taken over if another
    distributor is active."""
    unseen_ms, state.looked_ms = batch.mono_ms - state.looked_ms, batch.mono_ms
    if unseen_ms >= state.failure_timeout_ms:
        discount_silence(state.distributors.values(), unseen_ms, batch.mono_ms)
    for name, child in list(state.distributors.items()):
        health = Health.GONE if child.health is Health.GONE else child.judge(batch.mono_ms, state.failure_timeout_ms)
        if health is not child.health:
            step.note("distributor_" + health, distributor=name, in_flight=len(child.in_flight))
            tell_health(child, health, step)
            child.health = health
            if health is Health.GONE:
                step.measure(Duration.FAILURE_DETECTION, batch.mono_ms - child.moved_ms)
        if health is Health.GONE and name not in state.moving:
            others = any(other.health is Health.ACTIVE for other in state.distributors.values())
            if not child.in_flight:
                remove_distributor(state, name, step)
            elif others:  # otherwise its tasks had better wait for its own successor
                state.moving.add(name)
                step.effects.append(TakeOver(name))


def note_attempts(state: CoordinatorState, distributor_id: str, had: Mapping[str, Task], step: Step) -> None:
    """Records the attempts that a cell knows of before it is emptied, since this process may die in between."""
    for task_id, told in had.items():
        task = state.local_tasks.get(task_id)
        if task is not None and task.assigned_to == distributor_id and task.status is S.IN_PROGRESS:
            save(state, task.evolve(**attempts_had(task, told)), step)


def on_taken_over(state: CoordinatorState, event: TakenOver, batch: Batch, step: Step) -> None:
    """Queues the tasks of a distributor that was taken over again, with the attempts that they have had."""
    state.moving.discard(event.distributor_id)
    if child := state.distributors.get(event.distributor_id):
        step.measure(Duration.TAKEOVER, batch.mono_ms - child.moved_ms)
    remove_distributor(state, event.distributor_id, step)
    moved = 0
    for task in list(state.local_tasks.values()):
        if task.assigned_to != event.distributor_id or task.status is not S.IN_PROGRESS:
            continue
        told = event.had.get(task.task_id)
        had = attempts_had(task, told)
        if told is not None and told.status is S.IN_PROGRESS:
            error = TaskError(
                type="distributor_lost", message=f"distributor {event.distributor_id} was gone before it reported",
                attempt=had["attempt"], worker=told.assigned_to or "",
            )  # fmt: skip
            had["errors"] = errors_with(had.get("errors", ()), error)
            step.tell(EventType.ATTEMPT_LOST, task, error.worker, error.attempt)
        step.remove(Table.WANTED, task.task_id, event.distributor_id)
        requeue(state, task, batch, step, why="the distributor is gone", **had)
        moved += 1
    state.count("moved", moved)
    step.note("tasks_moved", distributor=event.distributor_id, tasks=moved)


def on_not_taken(state: CoordinatorState, event: NotTaken, batch: Batch, step: Step) -> None:
    state.moving.discard(event.distributor_id)
