"""How much one superstep may store, wherever that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter

from core.checkpoints.storage import CheckpointPut, ThreadWrite, Written
from core.checkpoints.supersteps import Put, Step, by_step, step_of
from core.errors import CheckpointTooLarge

__all__ = ["MAX_WRITE_BYTES", "refused_for_size"]

#: A server blocks while it takes it in, and a replica or an append log has to follow.
MAX_WRITE_BYTES = 16 * 1024 * 1024


def refused_for_size(write: ThreadWrite, at_most: int) -> Written | None:
    """Why it is not stored, if one of its supersteps has more than `at_most` bytes."""
    puts: tuple[Put, ...] = (*write.checkpoints, *write.writes)
    totals: dict[Step, int] = {}
    for put in puts:
        step = step_of(put)
        totals[step] = totals.get(step, 0) + _size(put)
    if not totals or max(totals.values()) <= at_most:
        return None
    step, total = max(totals.items(), key=itemgetter(1))
    largest, size = max(_parts(by_step(puts)[step]), key=itemgetter(1))
    return Written(
        CheckpointTooLarge.__name__,
        f"a step of thread {write.thread_id!r} would store {total} bytes, over {at_most}; the largest"
        f" part is {largest} with {size}. Keep large data elsewhere, and its address in the state.",
    )


def _size(put: Put) -> int:
    if isinstance(put, CheckpointPut):
        return len(put.body) + sum([len(value.value or b"") for value in put.changed])
    return sum([len(one.value) for one in put.writes])


def _parts(puts: Iterable[Put]) -> Iterator[tuple[str, int]]:
    """What a superstep stores, and its size in bytes."""
    for put in puts:
        if isinstance(put, CheckpointPut):
            yield "the checkpoint", len(put.body)
            for value in put.changed:
                yield f"channel {value.channel!r}", len(value.value or b"")
        else:
            yield "what a node has written", _size(put)
