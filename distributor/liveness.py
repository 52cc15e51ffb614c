"""Which workers of a distributor live, which are gone, and which tasks they have lost. No I/O, no clock."""

from __future__ import annotations

from itertools import islice

import orjson

from core.agents import Health, Subordinate, discount_silence
from core.durations import Duration
from core.event_types import EventType
from core.reconciliation import Held
from core.reports import AttemptName, item_of
from core.roles import Action
from core.status_reports import Beat
from core.step import Batch, Received, Sending, Step, Table
from core.telling import tell_health
from distributor.exclusions import suspect
from distributor.state import DistributorState
from distributor.task_life import give_back, is_own, lose, remember_attempts

__all__ = ["give_back_stranded", "judge_workers", "on_agent_joined", "on_agent_left", "on_beat", "write_workers"]


def on_agent_joined(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes the greeting of a worker. One that was started again has lost all its tasks."""
    note_report(state, received, batch, step)


def on_beat(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes a heartbeat of a worker, which also tells what it holds."""
    if worker := note_report(state, received, batch, step):
        reconcile(state, worker, batch, step)


def note_report(state: DistributorState, received: Received, batch: Batch, step: Step) -> Subordinate | None:
    """Notes what a worker reports about itself; None: that is nothing new, or does not speak for the one that acts."""
    beat = received.status
    assert isinstance(beat, Beat)
    remember_attempts(state, beat.attempts)  # even if it has died: its tasks still need their limits
    incarnation = received.message.metadata.incarnation
    name = received.sender.agent_id
    worker = state.workers.get(name)
    if (worker is None or not worker.incarnation) and batch.age_ms(received) >= state.failure_timeout_ms:
        # A worker left it behind that died before this distributor started.
        if worker is None:
            step.remove(Table.HEARTBEATS, name)
        else:
            worker.learn(beat)  # it tells how many of its tasks may have begun
        return None
    if worker is not None and is_successor(state, worker, incarnation, beat):
        if received.message.action == Action.BEAT:
            return None  # the last reports of its predecessor may be unread, in front of its own greeting
        if not worker.beat.concurrency:
            worker.learn(beat)  # that of its predecessor is unknown
        forget_worker(state, name, batch, step, died=True)
        worker = None
    if worker is None:
        worker = state.workers[name] = Subordinate(received.sender, 0, beat, batch.mono_ms)
    elif (incarnation, beat.beat) <= (worker.incarnation, worker.beat.beat):
        return None  # it brings nothing new
    joins = not worker.incarnation
    if joins:
        worker.incarnation = incarnation
        stop_what_others_have(state, worker, beat, step)
        step.note("worker_joined", worker=name, incarnation=incarnation)
        step.tell_agent(EventType.AGENT_JOINED, worker.address)
        write_workers(state, step)
    tell_health(worker, Health.ACTIVE, step)
    worker.update(beat, batch.mono_ms)
    if joins:
        share_pace(state, worker)
    return worker


def share_pace(state: DistributorState, worker: Subordinate) -> None:
    """Lets a worker have the pace of others with its skills."""
    alike = (other for other in state.workers.values() if other.beat.capabilities == worker.beat.capabilities)
    worker.pace = next((other.pace for other in alike if other is not worker), worker.pace)


def is_successor(state: DistributorState, worker: Subordinate, incarnation: int, beat: Beat) -> bool:
    """Whether this is a later start of the worker than the one that was handed the tasks in flight. For a worker that
    is only known from stored records, the times tell: an incarnation is at least the server's clock, in ms, at that
    start."""
    if worker.incarnation:
        return incarnation > worker.incarnation
    holding = dict(beat.holding)
    handed = [state.local_tasks[task_id] for task_id in worker.in_flight if task_id not in holding]
    return any(task.started_at and task.started_at.timestamp() * 1000 < incarnation for task in handed)


def stop_what_others_have(state: DistributorState, worker: Subordinate, beat: Beat, step: Step) -> None:
    """Cancels the attempts of a returning worker that are no longer its own: it, or this distributor, was taken for
    dead, and its tasks went to others or have ended, so their results would be dropped."""
    name = worker.address.agent_id
    for task_id, attempt in beat.holding:
        task = state.local_tasks.get(task_id)
        if task is None or (task.attempt, task.assigned_to) != (attempt, name):
            item = item_of(AttemptName(task_id=task_id, attempt=attempt))
            step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation), item)


def reconcile(state: DistributorState, worker: Subordinate, batch: Batch, step: Step) -> None:
    """Advances the probe of a worker by a heartbeat (see core.reconciliation), which also tells what the worker holds.
    The tasks that it has lost are tried again."""
    probe, beat, taken = worker.probe, worker.beat, batch.taken_from(worker.address)
    if probe.read(beat, state.incarnation) and taken >= beat.sent:
        probe.look(Held(beat.beat - 1, frozenset(dict(beat.holding))), probe.since_ms)  # before this one
        if probe.hear_out(beat, taken):
            step.measure(Duration.RECONCILIATION, batch.mono_ms - probe.since_ms)
            for task_id in probe.judge(worker.in_flight):
                worker.drop(task_id)
                state.count("missing")
                lose(state, state.local_tasks[task_id], worker.address.agent_id, batch, step, began=False)
    if probe.expire(batch.mono_ms, state.failure_timeout_ms):
        step.extras.setdefault(Sending(worker.address, Action.ASSIGN_TASK, None, worker.incarnation), {})
    probe.ask(worker.in_flight, batch.sent.get(worker.address, 0), batch.mono_ms, step.changes)


def judge_workers(state: DistributorState, batch: Batch, step: Step) -> None:
    """Notices which workers have fallen silent. The tasks of one that is gone go to others."""
    unseen_ms, state.looked_ms = batch.mono_ms - state.looked_ms, batch.mono_ms
    if unseen_ms >= state.failure_timeout_ms:
        discount_silence(state.workers.values(), unseen_ms, batch.mono_ms)
    for name, worker in list(state.workers.items()):
        health = worker.judge(batch.mono_ms, state.failure_timeout_ms)
        if health is not worker.health:
            step.note("worker_" + health, worker=name, in_flight=len(worker.in_flight))
            if health is not Health.GONE:  # else `forget_worker` tells
                tell_health(worker, health, step)
            worker.health = health
        if health is Health.GONE:
            step.measure(Duration.FAILURE_DETECTION, batch.mono_ms - worker.moved_ms)
            forget_worker(state, name, batch, step, died=True)
            step.remove(Table.HEARTBEATS, name)


def give_back_stranded(state: DistributorState, batch: Batch, step: Step) -> None:
    """Returns tasks that no worker here has been able to do for the failure timeout, since another distributor may have
    a worker for them. Until then a suitable worker may come back, or be heard for the first time."""
    nobodys = [
        needs
        for needs in sorted(state.queue.needs())
        if not any(worker.can(needs) for worker in state.workers.values())
    ]
    state.stranded = {needs: state.stranded.get(needs, batch.mono_ms) for needs in nobodys}
    for needs, since_ms in state.stranded.items():
        ids = state.queue.in_lane(needs)
        waiting = [task for task_id in ids if not is_own(task := state.local_tasks[task_id])]
        if waiting and batch.mono_ms - since_ms >= state.failure_timeout_ms:
            step.note("tasks_stranded", needs=list(needs), tasks=len(waiting))
            for task in waiting:
                give_back(state, task, batch, step, stranded=True)


def on_agent_left(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Notes that a worker leaves in an orderly way."""
    step.note("worker_left", worker=received.sender.agent_id)
    step.tell_agent(EventType.AGENT_LEFT, received.sender)
    forget_worker(state, received.sender.agent_id, batch, step, died=False)


def forget_worker(state: DistributorState, name: str, batch: Batch, step: Step, *, died: bool) -> None:
    """Takes back the tasks of a worker that is gone. If it died, as many attempts as it runs at once may have begun,
    and these count. If it left in an orderly way, it has already returned what it had begun."""
    worker = state.workers.pop(name, None)
    if worker is None:
        return
    if died:
        tell_health(worker, Health.GONE, step)
    at_once = worker.beat.concurrency or 1  # 0: it died before it was heard
    runs = {task_id for task_id in worker.in_flight if worker.is_run(task_id)}
    begun = runs | set(islice((task_id for task_id in worker.in_flight if task_id not in runs), at_once))
    for task_id in worker.in_flight:
        task = state.local_tasks.get(task_id)
        if task and task.assigned_to == name:
            if died:
                suspect(state, task_id, batch.now_ms)
            lose(state, task, name, batch, step, began=died and task_id in begun)
    if died:
        state.count("workers_lost")
    write_workers(state, step)


def write_workers(state: DistributorState, step: Step) -> None:
    known = {*state.metadata.get("registered", ()), *state.workers}
    step.put(Table.HEADER, "assigned_workers", orjson.dumps(sorted(known)))
