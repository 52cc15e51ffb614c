"""How much a superstep may store."""

from __future__ import annotations

from core.checkpoints.storage import ChannelValue, CheckpointPut, PendingWrite, ThreadWrite, WritesPut
from core.checkpoints.write_size import refused_for_size


def checkpoint(name: str, parent: str, size: int, ns: str = "") -> CheckpointPut:
    changed = (ChannelValue("text", name, b"x" * size),)
    return CheckpointPut(
        ns, name, parent, root_id="", run_id="", is_chained=False, versions=(), changed=changed, body=b"body"
    )


def writes(on: str, size: int, ns: str = "") -> WritesPut:
    return WritesPut(ns, on, "task", (PendingWrite(0, b"x" * size),))


def refusal(*puts: CheckpointPut | WritesPut, at_most: int) -> str | None:
    checkpoints = tuple(put for put in puts if isinstance(put, CheckpointPut))
    refused = refused_for_size(
        ThreadWrite("t", None, checkpoints, tuple(put for put in puts if isinstance(put, WritesPut))), at_most
    )
    return refused.message if refused else None


def test_supersteps_that_travel_together_are_measured_one_by_one() -> None:
    steps = checkpoint("1", "", 60), checkpoint("2", "1", 60), checkpoint("3", "2", 60), checkpoint("3", "2", 60, "sub")
    assert refusal(*steps, at_most=64) is None
    assert "would store 64 bytes, over 63" in (refusal(*steps, at_most=63) or "")


def test_what_nodes_have_written_belongs_to_the_step_that_it_leads_to() -> None:
    step = writes("1", 50), writes("1", 30), checkpoint("2", "1", 60)
    assert refusal(writes("0", 140), *step, at_most=144) is None
    told = refusal(writes("0", 20), *step, at_most=143) or ""
    assert "would store 144 bytes, over 143" in told
    assert "channel 'text' with 60" in told


def test_nothing_is_never_too_large() -> None:
    assert refusal(at_most=0) is None
