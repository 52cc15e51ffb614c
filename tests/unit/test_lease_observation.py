"""When a lease that another process holds may be taken, by what is seen of it."""

from __future__ import annotations

import orjson
import pytest

from core.langgraph_state import Lease
from core.machine.process_identity import this_process
from core.redis_backend.grants import NO_LEASE
from core.redis_backend.held_lease import HeldLease
from core.redis_backend.lease import Observation
from core.roles import Address, Role

ELSEWHERE = "elsewhere/7/0"
DEAD = this_process().rsplit("/", 2)[0] + "/4194304/1"  # beyond the largest process id
LAPSES_S = 10.0


def a_lease(process: str, **also: bool) -> bytes:
    at = {"acquired_at": 0, "expires_at": 0}
    named = {"owner": "distributor:d", "process": process, "incarnation": 1, "epoch": 1, "host": "h"}
    return orjson.dumps({**named, **at, **also})


@pytest.mark.parametrize(
    ("text", "now_s", "is_free"),
    [
        (b"", 0.0, True),
        (a_lease(ELSEWHERE), LAPSES_S, False),
        (a_lease(ELSEWHERE), LAPSES_S + 0.1, True),
        (a_lease(this_process()), LAPSES_S, False),
        (a_lease(DEAD), 0.0, True),
        (NO_LEASE, LAPSES_S, False),
        (NO_LEASE, LAPSES_S + 0.1, True),
    ],
    ids=["none", "alive", "not renewed in time", "alive here", "dead here", "no lease", "no lease for as long"],
)
def test_a_lease_is_free_when_nobody_holds_it_or_its_holder_is_dead_or_has_not_renewed_it_in_time(
    text: bytes, now_s: float, is_free: bool
) -> None:
    assert Observation(text, LAPSES_S).is_free(now_s) is is_free


@pytest.mark.parametrize(("text", "holder"), [(a_lease(ELSEWHERE), "process 7 on h"), (NO_LEASE, "nobody knows who")])
def test_an_observation_names_the_holder(text: bytes, holder: str) -> None:
    assert Observation(text, LAPSES_S).holder == holder


@pytest.mark.parametrize(
    ("also", "takeover"),
    [({}, False), ({"takeover": True}, True), ({"in_passing": True}, True), ({"in_passing": False}, False)],
    ids=["not stated", "taken over", "taken over by an earlier release", "held by the agent, of an earlier release"],
)
def test_a_lease_says_whether_it_is_a_takeover_also_as_earlier_releases_said_it(
    also: dict[str, bool], takeover: bool
) -> None:
    lease = Observation(a_lease(ELSEWHERE, **also), LAPSES_S).lease

    assert lease is not None
    assert lease.takeover is takeover


def test_a_takeover_is_stored_under_a_name_that_is_read() -> None:
    held = HeldLease(Address(Role.DISTRIBUTOR, "d"), 1000, after_epoch=0, takeover=True)

    assert Lease.from_json(held.to_json(now_ms=0)).takeover
