"""What a distributor knows of its workers: who is here, who is gone, what they have lost. No I/O, no clock."""

from __future__ import annotations

import orjson

from core.agents import Health, Subordinate, discount_silence
from core.reconciliation import Held
from core.reports import AttemptName, item_of
from core.roles import Action
from core.status_reports import Beat
from core.step import Batch, Received, Sending, Step, Table
from distributor.state import DistributorState
from distributor.task_life import give_back, is_own, lose, remember_attempts

__all__ = ["give_back_stranded", "judge_workers", "on_agent_left", "on_beat", "write_workers"]


def on_beat(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """A worker is here, or still here. One that was started anew has none of the tasks its predecessor had."""
    beat = received.status
    assert isinstance(beat, Beat)
    remember_attempts(state, beat.attempts)  # of one that died, too: how often what it had may be tried
    incarnation = received.message.metadata.incarnation
    name = received.sender.agent_id
    worker = state.workers.get(name)
    if (worker is None or not worker.incarnation) and batch.age_ms(received) >= state.failure_timeout_ms:
        # Left behind by one that died before this distributor began to look.
        if worker is None:
            step.remove(Table.HEARTBEATS, name)
        else:
            worker.beat = beat  # how many tasks it ran at once tells which may have begun
        return
    if worker is not None and is_successor(state, worker, incarnation, beat):
        if received.message.action == Action.BEAT:
            return  # what its predecessor said last may lie unread, before the message with which this one has joined
        if not worker.beat.concurrency:
            worker.beat = beat  # nobody remembers how many tasks its predecessor ran at once
        forget_worker(state, name, batch, step, died=True)
        worker = None
    if worker is None:
        worker = state.workers[name] = Subordinate(received.sender, 0, beat, batch.mono_ms)
    elif (incarnation, beat.beat) <= (worker.incarnation, worker.beat.beat):
        return  # no newer than what we know
    if not worker.incarnation:
        worker.incarnation = incarnation
        stop_what_others_have(state, worker, beat, step)
        step.note("worker_joined", worker=name, incarnation=incarnation)
        write_workers(state, step)
    worker.update(beat, batch.mono_ms)
    if received.message.action == Action.BEAT:
        reconcile(state, worker, batch, step)


def is_successor(state: DistributorState, worker: Subordinate, incarnation: int, beat: Beat) -> bool:
    """Whether this is another start than the one that was handed what is in flight. Of one that is only remembered
    from the stored records that is told by the times: an incarnation is no lower than the server's clock was then."""
    if worker.incarnation:
        return incarnation > worker.incarnation
    holding = dict(beat.holding)
    handed = [state.local_tasks[task_id] for task_id in worker.in_flight if task_id not in holding]
    return any(task.started_at and task.started_at.timestamp() * 1000 < incarnation for task in handed)


def stop_what_others_have(state: DistributorState, worker: Subordinate, beat: Beat, step: Step) -> None:
    """A worker that was taken for dead is back, or this distributor was: what it still runs has been given to others,
    or has ended, and nobody would take its result. What has ended there meanwhile it need not be told."""
    name = worker.address.agent_id
    for task_id, attempt in beat.holding:
        task = state.local_tasks.get(task_id)
        if task is None or (task.attempt, task.assigned_to) != (attempt, name):
            item = item_of(AttemptName(task_id=task_id, attempt=attempt))
            step.send(Sending(worker.address, Action.CANCEL_TASK, None, worker.incarnation), item)


def reconcile(state: DistributorState, worker: Subordinate, batch: Batch, step: Step) -> None:
    """Moves the probe of a worker on by a heartbeat (see core.reconciliation), which itself tells what it holds. What
    it has lost is tried again."""
    probe, beat, taken = worker.probe, worker.beat, batch.taken_from(worker.address)
    if probe.read(beat, state.incarnation) and taken >= beat.sent:
        probe.look(Held(beat.beat - 1, frozenset(dict(beat.holding))), probe.since_ms)  # before this one
        if probe.hear_out(beat, taken):
            for task_id in probe.judge(worker.in_flight):
                worker.in_flight.pop(task_id)
                state.count("missing")
                lose(state, state.local_tasks[task_id], worker.address.agent_id, batch, step, began=False)
    if probe.expire(batch.mono_ms, state.failure_timeout_ms):
        step.extras.setdefault(Sending(worker.address, Action.ASSIGN_TASK, None, worker.incarnation), {})
    probe.ask(worker.in_flight, batch.sent.get(worker.address, 0), batch.mono_ms, step.changes)


def judge_workers(state: DistributorState, batch: Batch, step: Step) -> None:
    """Notices who has fallen silent; the tasks of one that is gone go to others."""
    unseen_ms, state.looked_ms = batch.mono_ms - state.looked_ms, batch.mono_ms
    if unseen_ms >= state.failure_timeout_ms:
        discount_silence(state.workers.values(), unseen_ms, batch.mono_ms)
    for name, worker in list(state.workers.items()):
        health = worker.judge(batch.mono_ms, state.failure_timeout_ms)
        if health is not worker.health:
            step.note("worker_" + health, worker=name, in_flight=len(worker.in_flight))
            worker.health = health
        if health is Health.GONE:
            forget_worker(state, name, batch, step, died=True)
            step.remove(Table.HEARTBEATS, name)


def give_back_stranded(state: DistributorState, batch: Batch, step: Step) -> None:
    """Returns what no worker here can do, once that has been so for the failure timeout: the last one that could has
    left, or died, and another distributor may have one. Until then it may come back, or be yet to be heard."""
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
    """A worker stops by its own will."""
    step.note("worker_left", worker=received.sender.agent_id)
    forget_worker(state, received.sender.agent_id, batch, step, died=False)


def forget_worker(state: DistributorState, name: str, batch: Batch, step: Step, *, died: bool) -> None:
    """Takes back what a worker had. Of one that died, as many as it runs at once may have begun: those attempts
    count. One that left by its own will has returned what it had begun."""
    worker = state.workers.pop(name, None)
    if worker is None:
        return
    at_once = worker.beat.concurrency or 1  # it died before this distributor had heard of it
    for index, task_id in enumerate(worker.in_flight):
        task = state.local_tasks.get(task_id)
        if task and task.assigned_to == name:
            if died:
                state.poison_suspects.add(task_id)
            lose(state, task, name, batch, step, began=died and index < at_once)
    if died:
        state.count("workers_lost")
    write_workers(state, step)


def write_workers(state: DistributorState, step: Step) -> None:
    known = {*state.metadata.get("registered", ()), *state.workers}
    step.put(Table.HEADER, "assigned_workers", orjson.dumps(sorted(known)))
