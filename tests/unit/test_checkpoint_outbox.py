"""What is stored of supersteps that travel together, of which one does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from core.checkpoints.memory_storage import MemoryStorage
from core.checkpoints.outbox import Outbox
from core.checkpoints.storage import (
    ChannelValue,
    CheckpointPut,
    PendingWrite,
    Selection,
    ThreadWrite,
    WritesPut,
    Written,
)
from core.checkpoints.supersteps import Put
from core.errors import AgentSystemError, CheckpointTooLarge, ServerRefused

MAX_BYTES = 100


def checkpoint(name: str, parent: str, size: int = 10, ns: str = "") -> CheckpointPut:
    changed = (ChannelValue("text", name, b"x" * size),)
    return CheckpointPut(
        ns, name, parent, root_id="", run_id="", is_chained=False, versions=(("text", name),), changed=changed, body=b""
    )


def writes(on: str, size: int = 10, task: str = "task", ns: str = "") -> WritesPut:
    return WritesPut(ns, on, task, (PendingWrite(0, b"x" * size),))


class OneCallFits(MemoryStorage):
    """A storage whose calls carry only so much."""

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        if len(batch) > 1 or len(batch[0].checkpoints) + len(batch[0].writes) > 1:
            raise CheckpointTooLarge("too much for a call")
        return await super().write(batch)


class FullForAWhile(MemoryStorage):
    """A storage that refuses the first write."""

    is_full = True

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        if self.is_full:
            self.is_full = False
            return [Written(ServerRefused.__name__, "OOM")] * len(batch)
        return await super().write(batch)


def storage() -> MemoryStorage:
    return MemoryStorage(lambda: 0.0, max_write_bytes=MAX_BYTES)


async def told(outbox: Outbox, *puts: Put, thread_id: str = "t") -> list[str]:
    """Puts all at once, and says what whoever waits for each is told."""

    async def one(put: Put) -> str:
        try:
            await outbox.add(thread_id, put).stored([put])
        except AgentSystemError as error:
            return f"{type(error).__name__}: {error}"
        return "stored"

    return await asyncio.gather(*map(one, puts))


async def stored(storage: MemoryStorage, thread_id: str = "t") -> dict[str, int]:
    """The stored checkpoints, each with how many writes it has."""
    found = await storage.read(thread_id, Selection(limit=100))
    return {f"{each.ns}{each.checkpoint_id}": len(each.writes) for each in found}


async def test_what_fits_is_stored_though_it_travels_with_what_is_too_large() -> None:
    place = storage()
    first, small, large = checkpoint("1", ""), writes("1", task="small"), writes("1", 200, task="large")
    assert [said.partition(" would")[0] for said in await told(Outbox(place, None), first, small, large)] == [
        "stored",
        *["CheckpointTooLarge: a step of thread 't'"] * 2,  # a superstep is stored whole or not at all
    ]
    assert await stored(place) == {"1": 0}


async def test_who_stores_what_fits_is_not_told_of_another_namespace_or_thread() -> None:
    place = storage()
    outbox = Outbox(place, None)
    ours, others = await asyncio.gather(
        told(outbox, checkpoint("1", "", ns="a"), checkpoint("1", "", 200, ns="b"), checkpoint("1", "", ns="c")),
        told(outbox, checkpoint("1", ""), thread_id="other"),
    )
    assert [said.partition(":")[0] for said in ours] == ["stored", "CheckpointTooLarge", "stored"]
    assert others == ["stored"]
    assert await stored(place) == {"a1": 0, "c1": 0}


async def test_nothing_is_stored_that_builds_on_what_is_not_there() -> None:
    place = storage()
    outbox = Outbox(place, None)
    too_large, *behind = await told(outbox, checkpoint("1", "", 200), writes("1"), checkpoint("2", "1"), writes("2"))
    assert "the largest part is channel 'text' with 200" in too_large
    assert behind == [too_large] * 3

    # Nor what comes later: a first checkpoint may be kept back while the nodes behind it run.
    assert await told(outbox, writes("1", task="slower"), checkpoint("2", "1")) == [too_large] * 2
    assert await stored(place) == {}
    assert await told(outbox, checkpoint("3", ""), writes("3")) == ["stored"] * 2


async def test_what_is_too_much_for_one_call_goes_out_in_several() -> None:
    place = OneCallFits(lambda: 0.0)
    outbox = Outbox(place, None)
    ours, others = await asyncio.gather(
        told(outbox, checkpoint("1", ""), writes("1")), told(outbox, checkpoint("1", ""), thread_id="other")
    )
    assert (ours, others) == (["stored"] * 2, ["stored"])
    assert await stored(place) == {"1": 1}


async def test_what_a_full_server_has_refused_is_stored_if_it_comes_again() -> None:
    place = FullForAWhile(lambda: 0.0)
    outbox = Outbox(place, None)
    assert await told(outbox, checkpoint("1", "")) == ["ServerRefused: OOM"]
    assert await told(outbox, writes("1")) == ["ServerRefused: OOM"]
    assert await told(outbox, checkpoint("1", "")) == ["stored"]
    assert await told(outbox, writes("1")) == ["stored"]


async def test_an_outage_is_told_to_all_and_remembered_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    place = storage()
    outbox = Outbox(place, None)

    async def down(batch: Sequence[ThreadWrite]) -> list[Written]:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(place, "write", down)
        waiting = [outbox.add("t", put) for put in (checkpoint("1", ""), writes("1"))]
        for each in waiting:
            with pytest.raises(ConnectionError):
                await each.stored(each.puts)
    assert await told(outbox, writes("1"), checkpoint("2", "1")) == ["stored"] * 2
