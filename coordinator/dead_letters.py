"""What is kept besides the records: the messages that submitted tasks, and which tasks are dead letters.

The record of a dead letter is kept beyond the retention of ended tasks, with the message it came with as it was signed,
until somebody replays or purges it. So that a queue nobody looks at does not fill the server, the oldest are dropped:
they are ended tasks like others from then on.

A message is kept while one of its tasks is open or a dead letter. No I/O, no clock.
"""

from __future__ import annotations

from coordinator.state import CoordinatorState, DeadLetter, Submission
from core.dead_letters import is_dead
from core.step import Batch, Step, Table
from core.tasks import Task

__all__ = ["drop_surplus", "keep_message", "note_end", "recall_letters", "take_off"]

#: The dead letters kept, and what their records and messages take at most.
MAX_LETTERS, MAX_BYTES = 10_000, 64 * 1024 * 1024


def keep_message(state: CoordinatorState, entry: str, packed: bytes, tasks: int, step: Step) -> None:
    """Keeps a message as it was signed; `tasks` new ones came with it."""
    state.submissions[entry] = Submission(len(packed), tasks)
    step.put(Table.SUBMISSIONS, entry, packed)


def note_end(state: CoordinatorState, task: Task, record: bytes, batch: Batch, step: Step) -> None:
    """A task has ended, with this record: it may be a dead letter, or the last one of its message."""
    died = is_dead(task)
    if died:
        state.dead[task.task_id] = DeadLetter(batch.now_ms, len(record), task.submission)
        state.dead_bytes += len(record)
        step.put(Table.DEAD, task.task_id, batch.now_ms)
    if task.submission:
        count(state, task.submission, step, opened=-1, died=int(died))


def take_off(state: CoordinatorState, task_id: str, step: Step, *, opened: int = 0) -> None:
    """No dead letter any more; `opened` tasks go on with its message. Its record stays for what is left of the
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
    """Keeps the dead letters within their bounds; the oldest go first."""
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
    """Builds the memory: the dead letters, the oldest first; `sizes` are those of the messages that are stored. The
    open tasks are known already."""
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
