"""A failure keeps a task from workers for a time, and not for ever."""

from __future__ import annotations

from datetime import timedelta

from core.dispatch_queue import Placement
from core.roles import Action
from core.step import Step
from core.task_exclusion import AVOIDED_MS, SUSPECTED_MS, excluded_until
from distributor.exclusions import avoid, expire_exclusions, suspect
from distributor.state import DistributorState
from tests.builders import COORDINATOR, NOW, WORKER, a_batch, a_task
from tests.distributor_steps import a_distributor, assigned, failure, silence, take, to_me

NOW_MS = int(NOW.timestamp() * 1000)


def after_a_failure_on_worker_1() -> DistributorState:
    state = a_distributor(WORKER, concurrency=1)
    take(state, assigned(a_task("t", max_attempts=5)))
    take(state, failure("t"), later_s=1.0)
    return state


def test_the_worker_of_a_failed_attempt_is_avoided_for_a_time() -> None:
    state = after_a_failure_on_worker_1()
    assert state.last_worker == {"t": "worker-1"}

    take(state, later_s=1.0 + AVOIDED_MS / 1000 - 0.1)
    assert state.last_worker == {"t": "worker-1"}
    take(state, later_s=1.0 + AVOIDED_MS / 1000)
    assert (state.last_worker, state.avoided_ms) == ({}, {})


def test_a_failure_that_follows_begins_the_time_anew() -> None:
    state = after_a_failure_on_worker_1()
    avoid(state, "t", "worker-2", NOW_MS + 60_000)

    take(state, later_s=1.0 + AVOIDED_MS / 1000)
    assert state.last_worker == {"t": "worker-2"}


def test_a_task_that_a_worker_has_died_with_waits_like_any_other_when_the_suspicion_is_over() -> None:
    state = a_distributor(WORKER, concurrency=1)
    take(state, assigned(a_task("t", max_attempts=5)))
    silence(state)
    until = excluded_until(state.local_tasks["t"])
    assert (state.poison_suspects, state.queue.offers(Placement.AT_ONCE)) == ({"t"}, True)

    over_s = 5 + SUSPECTED_MS / 1000
    assert until == NOW + timedelta(seconds=over_s)
    expire_exclusions(state, a_batch(later_s=over_s - 0.1), Step())
    assert (state.poison_suspects, state.queue.offers(Placement.AT_ONCE)) == ({"t"}, True)
    expire_exclusions(state, a_batch(later_s=over_s), Step())
    assert (state.poison_suspects, state.suspected_ms) == (set(), {})
    assert (state.queue.offers(Placement.AT_ONCE), state.queue.offers()) == (False, True)


def test_a_task_that_has_left_is_forgotten() -> None:
    state = after_a_failure_on_worker_1()
    suspect(state, "t", NOW_MS)
    take(state, to_me(COORDINATOR, Action.CANCEL_TASK, ["t"]))
    assert (state.last_worker, state.avoided_ms, state.poison_suspects, state.suspected_ms) == ({}, {}, set(), {})
