"""Which tasks messages submit, under which ids, and who may send which message at all."""

from __future__ import annotations

import pytest

from core.dead_letters import REPLAY_OF, successors_of
from core.errors import NotPermitted
from core.roles import ALLOWED, Action, Role, check_permitted
from core.submissions import submitted, submitted_tasks
from tests.builders import CLIENT, COORDINATOR, a_batch, a_task, message_to

to_me = message_to(COORDINATOR)


def test_a_task_without_an_id_gets_one_that_is_the_same_when_the_message_is_sent_again() -> None:
    first, again = (to_me(CLIENT, Action.SUBMIT_TASK, [{"task_type": "sum"}] * 2) for _ in range(2))

    ids = [
        [submitted(item, at, message).task_id for at, item in enumerate(message.message.tasks)]
        for message in (first, again)
    ]

    assert ids[0] == ids[1]
    assert len({*ids[0]}) == 2


def test_the_tasks_of_a_batch_are_those_of_its_submissions_that_are_tasks() -> None:
    submission = to_me(CLIENT, Action.SUBMIT_TASK, [a_task("t"), {"task_id": "bad"}, {"task_type": "sum"}])
    batch = a_batch(to_me(CLIENT, Action.CANCEL_TASK, ["t"]), submission)

    found = list(submitted_tasks(batch))

    unnamed = submitted(submission.message.tasks[2], 2, submission)
    assert found == [(CLIENT, a_task("t")), (CLIENT, unnamed)]


@pytest.mark.parametrize(
    ("task_id", "origin", "start", "ids"),
    [
        ("t", None, 0, ["t.replay1", "t.replay2"]),
        ("t", None, 8, ["t.replay9", "t.replay10"]),
        ("t.replay3", "t", 0, ["t.replay4", "t.replay5"]),
        ("t.replay3", "t", 8, ["t.replay12", "t.replay13"]),
        ("t.replay3", "other", 0, ["t.replay3.replay1", "t.replay3.replay2"]),
    ],
)
def test_a_replay_is_numbered_on_from_the_task_it_replays(
    task_id: str, origin: str | None, start: int, ids: list[str]
) -> None:
    task = a_task(task_id, metadata={REPLAY_OF: origin} if origin else {})

    assert successors_of(task, start, 2) == ids


@pytest.mark.parametrize(("sender", "recipient"), [(a, b) for a in Role for b in Role])
def test_a_message_passes_only_if_the_table_has_it(sender: Role, recipient: Role) -> None:
    for action in Action:
        if action in ALLOWED.get((sender, recipient), ()):
            check_permitted(sender, recipient, action)
        else:
            with pytest.raises(NotPermitted) as refused:
                check_permitted(sender, recipient, action)
            assert f"a {sender} may not send {action.value!r} to a {recipient}" in refused.value.args
