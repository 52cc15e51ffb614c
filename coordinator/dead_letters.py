"""Keeps track of dead letters, and of the messages that submitted tasks. No I/O, no clock.

The record of a dead letter outlives the retention of ended tasks, together with the signed message that submitted it,
until somebody replays or purges it. The oldest dead letters are dropped, and count as ordinary ended tasks from then
on, so that a neglected queue does not fill the server.

A message is stored as long as one of its tasks is open or a dead letter.
"""

from __future__ import annotations

from coordinator.state import CoordinatorState, DeadLetter, Submission
from core.dead_letters import is_dead
from core.step import Batch, Step, Table
from core.tasks import Task

__all__ = ["drop_surplus", "keep_message", "note_end", "recall_letters", "take_off"]

#: Number of dead letters that are kept, and bytes of their records and messages.
MAX_LETTERS, MAX_BYTES = 10_000, 64 * 1024 * 1024


def keep_message(state: CoordinatorState, entry: str, packed: bytes, tasks: int, step: Step) -> None:
    """Stores a signed message, which has submitted `tasks` new tasks."""
    state.submissions[entry] = Submission(len(packed), tasks)
    step.put(Table.SUBMISSIONS, entry, packed)


def note_end(state: CoordinatorState, task: Task, record: bytes, batch: Batch, step: Step) -> None:
    """Notes that a task has ended with this record. It may be a dead letter, or the last open task of its message."""
    died = is_dead(task)
    if died:
        state.dead[task.task_id] = DeadLetter(batch.now_ms, len(record), task.submission)
        state.dead_bytes += len(record)
        step.put(Table.DEAD, task.task_id, batch.now_ms)
    if task.submission:
        count(state, task.submission, step, opened=-1, died=int(died))


def take_off(state: CoordinatorState, task_id: str, step: Step, *, opened: int = 0) -> None:
    """Removes a dead letter from the queue; `opened` new tasks need its message. Its record stays for the rest of the
    retention of ended tasks."""
    letter = state.dead.pop(task_id)
    state.dead_bytes -= letter.size
    step.remove(Table.DEAD, task_id)
    if letter.submission:
        count(state, letter.submission, step, opened=opened, died=-1)


def count(state: CoordinatorState, entry: str, step: Step, *, opened: int, died: int) -> None:
    """Adjusts the counts of a message's tasks that are open or dead letters; deletes the message when both reach
    zero."""
    message = state.submissions.get(entry)
    if message is None:
        return
    before = message.held_bytes
    message.opened += opened
    message.died += died
    if message.opened > 0 and not before:
        return  # the usual case: it is kept for its open tasks, as it was
    state.dead_bytes += message.held_bytes - before
    if not message.opened and not message.died:
        del state.submissions[entry]
        step.remove(Table.SUBMISSIONS, entry)


def drop_surplus(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Drops the oldest dead letters until their number, size and age are within the bounds."""
    too_old_ms = batch.now_ms - state.dead_letter_retention_ms
    dropped = []
    while state.dead:
        oldest = next(iter(state.dead))
        too_many = len(state.dead) > MAX_LETTERS or state.dead_bytes > MAX_BYTES
        if not too_many and state.dead[oldest].died_ms > too_old_ms:
            break
        take_off(state, oldest, step)
        dropped.append(oldest)
    if dropped:
        step.note("dead_letters_dropped", letters=len(dropped), first=dropped[0], last=dropped[-1])


def recall_letters(state: CoordinatorState, letters: dict[str, DeadLetter], sizes: dict[str, int]) -> None:
    """Restores the state of dead letters and messages after the open tasks. `letters`: by task id, the oldest first;
    `sizes`: of the stored messages, in bytes."""
    state.submissions = {entry: Submission(size) for entry, size in sizes.items()}
    state.dead = letters
    for task in state.local_tasks.values():
        if task.submission in state.submissions:
            state.submissions[task.submission].opened += 1
    for letter in state.dead.values():
        if letter.submission in state.submissions:
            state.submissions[letter.submission].died += 1
    state.dead_bytes = sum(letter.size for letter in state.dead.values())
    state.dead_bytes += sum(message.held_bytes for message in state.submissions.values())
