"""What a coordinator tells people of its waiting tasks and its quotas, in its header. No I/O, no clock."""

from __future__ import annotations

from collections import Counter

import msgspec

from coordinator.open_questions import OPERATORS
from coordinator.state import CoordinatorState
from core.quotas import OF_TENANT, OF_TYPE, Told
from core.step import Batch, Step, Table
from core.waiting_counts import WaitingFor, counted, unread
from core.waiting_lanes import Needs

__all__ = ["tell_waiting"]


def tell_waiting(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Writes how many tasks wait for what, and what is used of each quota, if that has changed. The cost grows with
    the kinds of waiting tasks and the number of quotas, not with the tasks."""
    used = {name: usage.told(batch.now_ms) for name, usage in state.quotas.items()}
    told = msgspec.json.encode(Told(waiting(state), used, state.draining))
    if told != state.told_waiting:
        state.told_waiting = told
        step.put(Table.HEADER, "waiting", told)


def waiting(state: CoordinatorState) -> dict[str, int]:
    """How many tasks wait for what, of those that no distributor has, or has read."""

    def why_held(needs: Needs, tenant: str) -> WaitingFor | None:
        name = f"{OF_TENANT}{tenant}" if tenant else f"{OF_TYPE}{needs[0].removeprefix('task:')}"
        usage = state.quotas.get(name)
        if usage is None or not usage.held:
            return None
        return WaitingFor.QUOTA if usage.is_full else WaitingFor.RATE_LIMIT

    counts = counted(state.queue, state.distributors.values(), why_held, draining=state.draining)
    asking = len(state.questions.get(OPERATORS, ()))
    in_hand = sum(len(child.in_flight) for child in state.distributors.values())
    suspended = len(state.local_tasks) - len(state.queue) - in_hand - state.in_line
    counts += Counter(
        {
            WaitingFor.UNREAD: unread(state.distributors.values()),
            WaitingFor.QUESTION: asking,
            WaitingFor.DEPENDENCY: suspended - asking,
            WaitingFor.THREAD_BUSY: state.in_line,
        }
    )
    return {str(reason): count for reason, count in sorted(counts.items()) if count > 0}
