"""A great many agents whose heartbeats come all at once. Line 46 of the matrix, with a tenth of the agents.

That heartbeats cost no command each is what keeps the server idle and the work fast, and does not depend on the
machine. How fast and how idle: `make bench ARGS="--only herd"`.
"""

from __future__ import annotations

import pytest

from core.roles import Address, Role
from tests.bench.measure import commands
from tests.faults.stage import COORDINATOR, SECRET, Stage
from tests.herd import Herd
from tests.waiting import until

HERD, ROUNDS, ROUND = 1000, 5, 10


def cost(stage: Stage, herd: Herd | None) -> int:
    """Commands at the server while some rounds of tasks are worked off, without the herd's own writing."""
    before = commands(stage.server)
    for _ in range(ROUNDS):
        if herd:
            herd.beat()
        stage.submit(ROUND)
        stage.collect()
    return commands(stage.server) - before - (ROUNDS * herd.size if herd else 0)


@pytest.mark.matrix(46)
def test_a_herd_of_heartbeats_costs_no_command_each_and_the_work_goes_on(stage: Stage) -> None:
    stage.start()
    stage.ready()
    stage.submit(20)
    stage.collect()
    calm = cost(stage, None)
    distributor = Address(Role.DISTRIBUTOR, "distributor-1")
    herd = Herd(HERD, stage.server, Address(Role.COORDINATOR, COORDINATOR), distributor, SECRET)

    herd.beat()
    until(lambda: stage.said("distributor-1", "worker_joined") >= HERD, "all of the herd are known")
    beaten = cost(stage, herd)

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert beaten < calm + ROUNDS * HERD / 5, (calm, beaten)
