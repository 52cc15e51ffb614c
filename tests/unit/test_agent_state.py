"""The state of a distributor as it is read from its keys, whatever somebody may have written there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.langgraph_state import AgentStatus, Lease, SharedAgentState
from tests.builders import NOW, a_task

LEASE = Lease(
    owner="distributor:d", process="boot/17/3", host="h", incarnation=4, epoch=5, acquired_at=NOW,
    expires_at=NOW + timedelta(seconds=10),
)  # fmt: skip
TASK = a_task("t")


def assembled(
    header: dict[bytes, bytes],
    wanted: dict[bytes, bytes] | None = None,
    actual: dict[bytes, bytes] | None = None,
    lease: bytes | None = None,
) -> SharedAgentState:
    state = SharedAgentState.assemble("d", {b"other": b"x", **header}, wanted or {}, actual or {}, lease)
    assert state is not None
    return state


def test_what_is_not_written_has_its_default() -> None:
    assert assembled({}) == SharedAgentState(distributor_id="d")


GOOD = {b"good": TASK.to_json()}
WANTED = {b"good": b'{"want":"assigned"}'}
ERROR = {"status": AgentStatus.ERROR}


@pytest.mark.parametrize(
    ("stored", "left", "unreadable"),
    [
        ({"header": {b"status": b"asleep"}}, ERROR, ("status",)),
        ({"header": {b"status": b"\xff"}}, ERROR, ("status",)),
        ({"header": {b"assigned_workers": b"{"}}, {}, ("assigned_workers",)),
        ({"header": {b"assigned_workers": b"7"}}, {}, ("assigned_workers",)),
        ({"header": {b"assigned_workers": b'["w1",2]'}}, {"assigned_workers": ("w1",)}, ()),
        ({"header": {b"coordinator_version": b"many"}}, {}, ()),
        ({"header": {}, "lease": b"{}"}, {}, ("lease",)),
        ({"header": {}, "lease": b""}, {}, ()),
        ({"header": {}, "actual": {b"bad": b"{", **GOOD}}, {"tasks": (TASK,)}, ("bad",)),
        ({"header": {}, "actual": {b"b\xffd": TASK.to_json(), **GOOD}}, {"tasks": (TASK,)}, ("b\ufffdd",)),
        ({"header": {}, "wanted": {b"bad": b"{}", **WANTED}}, {"wanted": {"good": "assigned"}}, ("bad",)),
        ({"header": {}, "wanted": {b"bad": b"7", **WANTED}}, {"wanted": {"good": "assigned"}}, ("bad",)),
        (
            {"header": {b"status": b"?"}, "wanted": {b"w": b""}, "actual": {b"a": b""}, "lease": b"x"},
            ERROR, ("lease", "status", "a", "w"),
        ),
    ],
)  # fmt: skip
def test_what_nobody_of_ours_has_written_is_named_and_hides_nothing_else(
    stored: dict[str, Any], left: dict[str, Any], unreadable: tuple[str, ...]
) -> None:
    assert assembled(**stored) == SharedAgentState(distributor_id="d", unreadable=unreadable, **left)


@pytest.mark.parametrize(
    ("process", "pid"), [("boot/17/3", 17), ("a/b/17/3", 17), ("17", None), ("boot/17", None), ("boot/x/3", None)]
)
def test_the_process_that_acts_is_told_from_the_lease(process: str, pid: int | None) -> None:
    assert LEASE.model_copy(update={"process": process}).pid == pid
