"""Which of its children's heartbeats an agent believes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from core.roles import Action
from core.runtime.heard_heartbeats import HeardHeartbeats
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, WORKER

CHAIN = (COORDINATOR, DISTRIBUTOR, WORKER)


def stored(number: int, **payload: Any) -> list[bytes]:
    """What HGETALL gives once `worker-1` has written its heartbeat of that number."""
    outbox = Outbox(CHAIN, KeyRing.from_secret(SECRET, CHAIN))
    outbox.incarnation = 1
    packed = outbox.beat(DISTRIBUTOR, {"action": Action.BEAT.value, "beat": number, **payload}, number, 0)
    return [b"worker-1", packed]


@pytest.mark.parametrize(
    "wrong", [{"beat": "often"}, {"holding": "all"}, {"attempts": [1]}, {"messages": {"sent": 7}}, {"capacity": None}]
)
def test_a_childs_heartbeat_that_no_graph_could_take_is_counted_and_seen_by_none(wrong: dict[str, Any]) -> None:
    rejected: Counter[str] = Counter()
    heard = HeardHeartbeats(DISTRIBUTOR, KeyRing.from_secret(SECRET, CHAIN[:2]), rejected)

    assert heard.new(stored(1, **wrong), 0) == []
    assert rejected == {"malformed": 1}
    assert [beat.message.payload["beat"] for beat in heard.new(stored(2), 0)] == [2]
