"""The machine that judges, on a run in which nothing goes wrong, and on one that was tampered with."""

from __future__ import annotations

from tests.faults.stage import Stage


def test_a_calm_run_is_clean_and_runs_every_task_once(stage: Stage) -> None:
    stage.start()
    stage.submit(300)

    verdict = stage.verdict()

    assert verdict.clean, verdict
    assert (verdict.accepted, verdict.ended, verdict.executed) == (300, 300, 300)
    assert verdict.commits > 20
