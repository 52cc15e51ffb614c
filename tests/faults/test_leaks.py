"""Nothing grows with what has ended: line 50 of the matrix, and `make soak` is its long form."""

from __future__ import annotations

import pytest

from tests.faults.outages import all_act, one_server
from tests.faults.soak import RETENTION_S, say, soak
from tests.faults.stage import Stage
from tests.process_memory import root_only

SECONDS = 24.0


@root_only
@one_server
@pytest.mark.matrix(50)
def test_under_constant_load_nobodys_keys_descriptors_or_connections_grow_nor_memory_by_much(stage: Stage) -> None:
    """For seconds instead of a day: what leaks by tasks or messages shows at once, memory only in `make soak`."""
    stage.start(TASK_RETENTION_S=f"{RETENTION_S}")
    all_act(stage)

    drifts = soak(stage, SECONDS, say)

    assert [f"{drift}" for drift in drifts if drift.grows] == []
    assert len(drifts) == 2 * len(stage.processes.names()) + 3
