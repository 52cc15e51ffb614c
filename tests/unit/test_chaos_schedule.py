"""The schedule of faults: what a seed determines."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from core.chaos.injector import LINK, SERVER, Fault, Kind, Target, schedule

AGENTS = (
    *(Target("coordinator-1", standby) for standby in (False, True)),
    *(Target(f"distributor-{number}") for number in (1, 2)),
    *(Target(f"worker-{number}") for number in (1, 2, 3, 4)),
)


def digest(faults: tuple[Fault, ...]) -> str:
    return hashlib.sha256("\n".join(f"{fault.at_s} {fault}" for fault in faults).encode()).hexdigest()[:12]


def test_a_seed_gives_the_same_schedule_in_every_process() -> None:
    program = "from tests.unit.test_chaos_schedule import *; print(digest(schedule(7, 60, 0.3, AGENTS)))"
    elsewhere = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert elsewhere == [digest(schedule(7, 60, 0.3, AGENTS))] * 2


def test_another_seed_gives_another_schedule() -> None:
    assert len({digest(schedule(seed, 60, 0.3, AGENTS)) for seed in range(20)}) == 20


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_in_order_at_the_interval_that_was_asked_for(seed: int) -> None:
    faults = schedule(seed, 300, 0.3, AGENTS, {Kind.KILL})
    times = [fault.at_s for fault in faults]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 300
    assert 800 < len(faults) < 1200


@pytest.mark.parametrize("seed", range(20))
def test_never_is_a_target_hit_while_it_is_down_nor_are_more_than_half_of_the_agents(seed: int) -> None:
    faults = schedule(seed, 60, 0.1, AGENTS)
    for number, fault in enumerate(faults):
        down = [earlier.target for earlier in faults[:number] if earlier.at_s + earlier.lasts_s > fault.at_s] + [
            fault.target
        ]
        assert len(set(down)) == len(down), f"{fault} at {fault.at_s} hits what is down"
        assert 2 * len(set(down) - {SERVER}) <= len(AGENTS) + 1


def test_every_kind_and_every_target_has_its_turn() -> None:
    faults = schedule(1, 300, 0.3, AGENTS)
    kinds = Counter(fault.kind for fault in faults)
    assert set(kinds) == set(Kind)
    assert kinds[Kind.KILL] > len(faults) / 2
    assert {fault.target for fault in faults} == {*AGENTS, SERVER}
    assert {fault.towards for fault in faults if fault.kind is Kind.BLACK_HOLE} == {"both", "server", "client"}


def test_only_the_kinds_that_were_asked_for_happen() -> None:
    assert {fault.kind for fault in schedule(1, 300, 0.3, AGENTS, LINK)} == LINK


def test_a_fault_says_what_it_is() -> None:
    coordinator, standby = AGENTS[:2]
    assert str(Fault(1, Kind.KILL, standby, 0.25)) == "kill coordinator-1's standby for 0.2 s"
    assert str(Fault(1, Kind.DELAY, coordinator, 2, 0.05)) == "delay coordinator-1 by 50 ms each way for 2.0 s"
    hole = Fault(1, Kind.BLACK_HOLE, coordinator, 2, towards="client")
    assert str(hole) == "black-hole coordinator-1 towards the client for 2.0 s"
