"""Answers to the questions of suspended tasks: by clients, or by default when the time is over. No I/O, no clock.

A question is answered once. The same answer by the same person again, since the reply to the first was lost, changes
nothing and is not refused, even when the task has gone on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coordinator.open_questions import due_questions, forget_questions, tasks_that_ask
from coordinator.state import CoordinatorState
from coordinator.task_life import answer, is_free, proceed, save, theirs
from core.access import may_touch, owner_of
from core.agent_run import RunOptions
from core.errors import BadTask, MalformedMessage
from core.event_types import EventType
from core.reports import (
    Answer,
    GivenAnswer,
    QuestionsWanted,
    Refusal,
    given_answer,
    questions_wanted,
    shown_id,
    task_id_in,
)
from core.roles import Address
from core.step import Batch, Received, Step
from core.tasks import Task, TaskStatus
from core.waits import ANSWERS_LIMIT_BYTES, Question, Wait, answered, answered_mark, answers_size

__all__ = ["expire_questions", "on_answer_question", "on_list_questions"]

#: Bytes of questions that are told in reply to one message.
LISTED_BYTES = 1024 * 1024
#: About how many bytes of a question stand beside what it asks.
BESIDE_BYTES = 500
#: Number of questions that a refusal names.
NAMED = 8


def on_answer_question(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Takes answers. A task whose last question is answered goes on, if nothing else is open that it waits for."""
    refused = []
    for item in received.message.tasks:
        try:
            take_answer(state, given_answer(item), received.sender, batch, step)
        except (BadTask, MalformedMessage) as error:
            refused.append(Refusal(shown_id(task_id_in(item)), str(error)))
    answer(received, Answer(refused=tuple(refused)), step)


def take_answer(state: CoordinatorState, given: GivenAnswer, asker: Address, batch: Batch, step: Step) -> None:
    """Settles a question with this answer. Raises BadTask: why it was not taken."""
    task = theirs(state, given.task_id, asker, batch, step)
    if task is None:
        raise BadTask("unknown task")
    by = owner_of(asker)
    wait = next((wait for wait in task.waits if wait.id == given.interrupt_id and wait.is_question), None)
    if task.status.ended or wait is None or wait.settled:
        if not is_repeated(task, wait, given, by):
            raise BadTask(why_too_late(task, wait, given))
        return
    if given.digest is not None and given.digest != wait.digest:
        raise BadTask(
            f"question {wait.id!r} is not what was shown: the digest is of an older one. Look at it again"
            f" (`agents questions show {task.task_id}`), and answer that"
        )
    if answers_size(task.waits) + len(memoryview(given.value_json)) > ANSWERS_LIMIT_BYTES:
        raise BadTask(
            f"the answers to the questions of one run are over {ANSWERS_LIMIT_BYTES} bytes together: store this one"
            " elsewhere, and answer with a reference"
        )
    if given.stream:
        task = task.evolve(run=(task.run or RunOptions()).telling(given.stream))
    settle(state, task, {wait.id: answered(wait, given.value_json, by, batch.now)}, batch, step)
    step.note("question_answered", task_id=task.task_id, question=wait.id, by=by)
    step.tell(EventType.QUESTION_ANSWERED, task, wait.id, by)


def is_repeated(task: Task, wait: Wait | None, given: GivenAnswer, by: str) -> bool:
    """Whether this very answer was taken before."""
    mark = answered_mark(by, given.value_json)
    if wait is not None and wait.settled:
        return mark == answered_mark(wait.answered_by, wait.answer_json)
    return any((earlier.id, earlier.mark) == (given.interrupt_id, mark) for earlier in task.answered)


def why_too_late(task: Task, wait: Wait | None, given: GivenAnswer) -> str:
    """Why a task takes no such answer: the question is settled, or there is none of that id."""
    if wait is not None and wait.settled:
        how = f"was answered by {wait.answered_by}" if wait.answered_by else "has expired, and its default counts,"
        return f"question {wait.id!r} {how} at {wait.settled_at:%Y-%m-%d %H:%M:%S} UTC: the first answer stays"
    if any(earlier.id == given.interrupt_id for earlier in task.answered):
        return f"question {given.interrupt_id[:80]!r} was answered before, and the task has gone on: that answer stays"
    if task.status.ended:
        return f"the task has ended as {task.status}, so nothing is asked any more"
    if asked := [wait.id for wait in task.waits if wait.is_open_question]:
        more = f" and {len(asked) - NAMED} more" if len(asked) > NAMED else ""
        return f"there is no question {given.interrupt_id[:80]!r}; it asks {', '.join(asked[:NAMED])}{more}"
    doing = "waits for other tasks" if task.status is TaskStatus.WAITING else f"is {task.status}"
    return f"there is no question {given.interrupt_id[:80]!r}; it asks nothing now, it {doing}"


def expire_questions(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Settles the questions whose time is over, each with its default."""
    for task in due_questions(state, batch):
        over = [
            wait for wait in task.waits if wait.is_open_question and wait.expires_at and wait.expires_at <= batch.now
        ]
        settle(state, task, {wait.id: answered(wait, wait.default_json, None, batch.now) for wait in over}, batch, step)
        for wait in over:
            step.tell(EventType.QUESTION_EXPIRED, task, wait.id)


def settle(state: CoordinatorState, task: Task, settled: Mapping[str, Wait], batch: Batch, step: Step) -> None:
    """Records settled questions. The task goes on if it waits for nothing any more."""
    waits = tuple(settled.get(wait.id, wait) for wait in task.waits)
    task = task.evolve(waits=waits, updated_at=batch.now)
    save(state, task, step)
    if not any(wait.is_open_question for wait in waits):
        forget_questions(state, task, step)
    if is_free(state, task):
        proceed(state, task, batch, step)


def on_list_questions(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Tells a client which questions are open, those that have waited longest first."""
    listings: dict[str, tuple[Question, ...]] = {}
    refused: list[Refusal] = []
    left_bytes = LISTED_BYTES
    for item in received.message.tasks:
        try:
            wanted = questions_wanted(item)
        except MalformedMessage as error:
            refused.append(Refusal(shown_id(None), str(error)))
            continue
        listed: list[Question] = []
        for task, wait in open_questions(state, received.sender, wanted):
            left_bytes -= len(memoryview(wait.asks_json)) + len(memoryview(wait.default_json)) + BESIDE_BYTES
            if len(listed) == wanted.limit or left_bytes < 0:
                break
            listed.append(Question.of(wait, task.task_id, task.task_type, task.root_id))
        listings[wanted.listing] = tuple(listed)
    answer(received, Answer(refused=tuple(refused), questions=listings), step)


def open_questions(state: CoordinatorState, asker: Address, wanted: QuestionsWanted) -> Iterator[tuple[Task, Wait]]:
    """The open questions that `asker` may see, those that have waited longest first, each with its task."""
    for task in tasks_that_ask(state, asker, wanted.root, wanted.task):
        if may_touch(asker, task) and wanted.task in (None, task.task_id):
            yield from ((task, wait) for wait in task.waits if wait.is_open_question)
