"""How much one superstep may store, wherever that is."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from core.checkpoints.storage import ThreadWrite, Written
from core.errors import CheckpointTooLarge

__all__ = ["MAX_WRITE_BYTES", "refused_for_size"]

#: A server blocks while it takes it in, and a replica or an append log has to follow.
MAX_WRITE_BYTES = 16 * 1024 * 1024


def refused_for_size(write: ThreadWrite, at_most: int) -> Written | None:
    """Why it is not stored, if it has more than `at_most` bytes."""
    total = 0
    for put in write.checkpoints:
        total += len(put.body) + sum([len(value.value or b"") for value in put.changed])
    for written in write.writes:
        total += sum([len(one.value) for one in written.writes])
    if total <= at_most:
        return None
    largest, size = max(_sizes(write), key=itemgetter(1))
    return Written(
        CheckpointTooLarge.__name__,
        f"a step of thread {write.thread_id!r} would store {total} bytes, over {at_most}; the largest"
        f" part is {largest} with {size}. Keep large data elsewhere, and its address in the state.",
    )


def _sizes(write: ThreadWrite) -> Iterator[tuple[str, int]]:
    """What is stored, and its size in bytes."""
    for put in write.checkpoints:
        yield "the checkpoint", len(put.body)
        for value in put.changed:
            yield f"channel {value.channel!r}", len(value.value or b"")
    for written in write.writes:
        yield "what a node has written", sum(len(one.value) for one in written.writes)
