"""How much one superstep may store, wherever that is."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from core.checkpoints.storage import ThreadWrite, Written
from core.errors import CheckpointTooLarge

__all__ = ["MAX_WRITE_BYTES", "refused_for_size"]

#: A server blocks while it takes it in, and a replica or an append log has to follow.
MAX_WRITE_BYTES = 16 * 1024 * 1024


#: A superstep: the namespace, and the id of the checkpoint that it goes on from.
Step = tuple[str, str]


def refused_for_size(write: ThreadWrite, at_most: int) -> Written | None:
    """Why it is not stored, if one of its supersteps has more than `at_most` bytes."""
    totals: dict[Step, int] = {}
    for put in write.checkpoints:
        size = len(put.body) + sum([len(value.value or b"") for value in put.changed])
        step = put.ns, put.parent_id
        totals[step] = totals.get(step, 0) + size
    for written in write.writes:
        step = written.ns, written.checkpoint_id
        totals[step] = totals.get(step, 0) + sum([len(one.value) for one in written.writes])
    if not totals or max(totals.values()) <= at_most:
        return None
    step, total = max(totals.items(), key=itemgetter(1))
    largest, size = max(_sizes(write, step), key=itemgetter(1))
    return Written(
        CheckpointTooLarge.__name__,
        f"a step of thread {write.thread_id!r} would store {total} bytes, over {at_most}; the largest"
        f" part is {largest} with {size}. Keep large data elsewhere, and its address in the state.",
    )


def _sizes(write: ThreadWrite, step: Step) -> Iterator[tuple[str, int]]:
    """What a superstep stores, and its size in bytes."""
    for put in write.checkpoints:
        if (put.ns, put.parent_id) == step:
            yield "the checkpoint", len(put.body)
            for value in put.changed:
                yield f"channel {value.channel!r}", len(value.value or b"")
    for written in write.writes:
        if (written.ns, written.checkpoint_id) == step:
            yield "what a node has written", sum(len(one.value) for one in written.writes)
