"""Which superstep something belongs to that is to be stored: what nodes have written belongs to the one that it leads
to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from core.checkpoints.storage import CheckpointPut, WritesPut

__all__ = ["Put", "Step", "by_step", "step_of"]

Put: TypeAlias = CheckpointPut | WritesPut
#: A superstep: the namespace, and the id of the checkpoint that it goes on from.
Step: TypeAlias = tuple[str, str]


def step_of(put: Put) -> Step:
    return put.ns, put.parent_id if isinstance(put, CheckpointPut) else put.checkpoint_id


def by_step(puts: Iterable[Put]) -> dict[Step, list[Put]]:
    """The same by superstep, in the order of their first parts."""
    steps: dict[Step, list[Put]] = {}
    for put in puts:
        steps.setdefault(step_of(put), []).append(put)
    return steps
