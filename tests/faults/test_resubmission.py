"""A client that does not know what became of its submission makes it again, also long after the task has ended."""

from __future__ import annotations

import pytest

from core.tasks import Task
from tests.faults.stage import Stage


@pytest.mark.matrix(51)
def test_tasks_that_are_submitted_again_after_their_end_are_told_and_do_not_run_again(hierarchy: Stage) -> None:
    tasks = [
        Task(task_id=f"again-{number}", task_type="chaos.work", payload={"number": number}) for number in range(20)
    ]
    hierarchy.submit_tasks(tasks)
    hierarchy.collect()

    ids = hierarchy.client.submit_many(tasks)

    assert {hierarchy.client.result(task_id, timeout_s=10).status for task_id in ids} == {"completed"}
    verdict = hierarchy.verdict()
    assert verdict.clean, verdict
    assert {verdict.executions[task.task_id] for task in tasks} == {1}
