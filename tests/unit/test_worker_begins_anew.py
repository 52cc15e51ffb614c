"""A worker that begins anew, after a step that failed half way."""

from __future__ import annotations

from core.config.settings import AgentConfig
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.reports import AttemptReport
from core.roles import Action
from core.runtime.agent_loop import AgentLoop
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.signing import KeyRing
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, WORKER, a_task
from worker.agent import WorkerBehaviour
from worker.authoring.registry import Handlers
from worker.rules import Outcome, ProgressMade, Withdrawn

CHAIN = (COORDINATOR, DISTRIBUTOR, WORKER)


async def begins_anew() -> tuple[WorkerBehaviour, AgentLoop]:
    """Before, it has told of an attempt that it is given once more; told to drain, it ends."""
    store, config, task = MemoryStore(ServerTime()), AgentConfig(), a_task(attempt=1)
    behaviour = WorkerBehaviour(CHAIN, config, Handlers(), (), ())
    keys = KeyRing.from_secret(SECRET, CHAIN)
    loop = assembled(behaviour, AgentSetup(CHAIN, keys, lambda: MemoryConnection(store), config))
    await loop.committer.leaseholder.acquire()
    await behaviour.load(loop)
    loop.drain()
    loop.local_events.tell(Outcome(AttemptReport(task_id=task.task_id, attempt=1, status="completed")))
    loop.local_events.tell(ProgressMade(task.task_id, 1, {"fraction": 0.5}))

    await behaviour.load(loop)
    behaviour.state.local_tasks[task.task_id] = task
    loop.local_events.tell(Withdrawn((task,)))
    await loop.run()
    return behaviour, loop


def test_what_was_told_before_is_not_taken_for_the_same_attempt_of_now() -> None:
    behaviour, loop = run_virtual(begins_anew(), seed=0)

    assert (behaviour.state.done, behaviour.state.local_tasks) == (0, {})
    assert {action for _, action in loop.outbox.counts} == {Action.TASK_RESULT}


def test_what_others_have_told_still_counts() -> None:
    behaviour, _ = run_virtual(begins_anew(), seed=0)

    assert behaviour.drained
