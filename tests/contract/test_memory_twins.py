"""What graphs remember and spend in the memory of a process is what Redis would hold: the same calls, whatever comes to
mind, give the same answers. Of time nothing is said here."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.budget import Budget, Reservation, Settlement
from core.checkpoints.items import PutItem, StoredItem
from core.checkpoints.memory_items import MemoryItems
from core.checkpoints.memory_storage import MemoryStorage
from core.checkpoints.redis_items import RedisItems
from core.checkpoints.redis_storage import RedisStorage
from core.checkpoints.storage import (
    ChannelValue,
    CheckpointPut,
    Fence,
    PendingWrite,
    Selection,
    Storage,
    StoredCheckpoint,
    ThreadWrite,
    WritesPut,
)
from core.config.model_prices import Price, Prices
from core.errors import AgentSystemError
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.redis_backend.budget_scripts import RENEW
from core.redis_client import Wire
from worker.hosts import accounts
from worker.hosts.accounts import Accounts
from worker.hosts.memory_accounts import MemoryAccounts

if TYPE_CHECKING:
    from core.config.settings import RedisConfig

#: A name for what each example begins with, so that the server need not be emptied.
fresh = itertools.count()

Call = Callable[[Any, str], Awaitable[Any]]

# ---- checkpoints ----

#: The outermost graph, a subgraph on top of one of its tasks, and one with a memory of its own.
ns = st.sampled_from(["", "sub:1", "own"])
checkpoint_id = st.integers(0, 6).map("{:02}".format)
fence = st.one_of(st.none(), st.builds(Fence, st.integers(0, 2), st.integers(0, 2)))
run_id = st.sampled_from(["", "r1", "r2"])
channels = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]), max_size=2)
body = st.sampled_from([b"x", b"\x00\xff"])  # what is encoded is never empty


@st.composite
def checkpoints(draw: st.DrawFn) -> CheckpointPut:
    name, versions, space = draw(checkpoint_id), draw(channels), draw(ns)
    parent = draw(st.sampled_from(["", *(f"{number:02}" for number in range(int(name)))]))
    changed = [ChannelValue(*place, draw(st.one_of(st.none(), body))) for place in versions.items()]
    root = draw(checkpoint_id) if space else ""
    chained = bool(parent) and draw(st.booleans())
    return CheckpointPut(
        space, name, parent, root, draw(run_id), chained, tuple(versions.items()), tuple(changed), draw(body)
    )  # fmt: skip


pending = st.builds(PendingWrite, st.integers(-2, 2), body)
writes = st.builds(
    WritesPut, ns, checkpoint_id, st.sampled_from(["t1", "t2"]), st.lists(pending, max_size=2).map(tuple)
)  # fmt: skip
selection = st.builds(
    Selection, st.one_of(st.none(), ns), st.one_of(st.none(), checkpoint_id), st.one_of(st.none(), checkpoint_id), ns,
    st.integers(1, 4),
)  # fmt: skip


def _write(holder: Storage, thread: str, batch: list[tuple[Any, ...]]) -> Awaitable[Any]:
    return holder.write([ThreadWrite(thread, *parts) for parts in batch])


thread_write = st.tuples(
    fence, st.lists(checkpoints(), max_size=2).map(tuple), st.lists(writes, max_size=2).map(tuple)
)  # fmt: skip
STORAGE_CALLS = st.one_of(
    st.lists(thread_write, min_size=1, max_size=2).map(lambda batch: lambda at, name: _write(at, name, batch)),
    selection.map(lambda wanted: lambda at, name: at.read(name, wanted)),
    st.builds(Fence, st.integers(0, 2), st.integers(0, 2)).map(lambda who: lambda at, name: at.open(name, who)),
    st.integers(0, 2).map(lambda keep: lambda at, name: at.prune(name, keep)),
    st.tuples(st.lists(run_id, max_size=2), fence).map(
        lambda given: lambda at, name: at.delete_runs(name, *given)
    ),
    st.just(lambda at, name: at.delete(name)),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(STORAGE_CALLS, min_size=1, max_size=12), keep=st.sampled_from([0, 1, 2]))
def _of_checkpoints(both: Both, calls: list[Call], keep: int) -> None:
    ours = MemoryStorage(_now_ms, keep=keep)
    theirs = RedisStorage(both.connection, keep=keep)
    everything: Call = lambda at, name: at.read(name, Selection(limit=100))  # noqa: E731
    both.hear(ours, theirs, [*calls, everything])


def test_checkpoints_are_the_same(redis_config: RedisConfig) -> None:
    with asyncio.Runner() as runner:
        _of_checkpoints(Both(runner, redis_config))


# ---- items ----

item_name = st.sampled_from(["a\0k", "a.b\0k", "a.b\0l", "ab\0k", "c\0"])
namespace = st.sampled_from(["", "a", "a.b", "ab", "z"])
ITEM_CALLS = st.one_of(
    st.lists(st.tuples(item_name, st.one_of(st.none(), body), st.sampled_from([0, 10**7])), min_size=1, max_size=3).map(
        lambda puts: (
            lambda at, name: at.put([PutItem(f"{name}{where}", value, ttl_ms) for where, value, ttl_ms in puts])
        )
    ),
    st.tuples(st.lists(item_name, min_size=1, max_size=3), st.booleans()).map(
        lambda given: lambda at, name: at.get([f"{name}{where}" for where in given[0]], given[1])
    ),
    st.tuples(namespace, st.one_of(st.just(""), item_name), st.integers(1, 4)).map(
        lambda given: lambda at, name: at.search(name + given[0], given[1] and name + given[1], given[2])
    ),
    st.just(lambda at, name: _named(at.namespaces(), name)),
)


async def _named(found: Awaitable[list[str]], name: str) -> list[str]:
    return [each for each in await found if each.startswith(name)]


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(ITEM_CALLS, min_size=1, max_size=15))
def _of_items(both: Both, calls: list[Call]) -> None:
    both.hear(both.items, RedisItems(both.connection), calls)


def test_items_are_the_same(redis_config: RedisConfig) -> None:
    with asyncio.Runner() as runner:
        _of_items(Both(runner, redis_config))


# ---- budgets ----

LIMITS = [
    (("root", Budget(calls=4, tokens=300)),),
    (("root", Budget(calls=4, tokens=300)), ("child", Budget(calls=2, cost_usd=0.002))),
    (("root", Budget(tokens=0)),),
]
grants = st.sampled_from(LIMITS)
_packed = msgspec.msgpack.encode
call_id = st.sampled_from(["c1", "c2", "c3"])
PRICES = Prices({"m": Price(input=1.0, output=10.0)})
reservation = st.tuples(call_id, grants, st.integers(0, 200), st.one_of(st.none(), st.integers(0, 200)))
ACCOUNT_CALLS = st.one_of(
    st.tuples(st.booleans(), reservation, st.sampled_from(["root", "child"]), st.integers(1, 2)).map(
        lambda given: lambda at, name: _reserve(at, _reservation(name, *given[1:]), silent=given[0])
    ),
    st.tuples(grants, st.lists(call_id, max_size=2)).map(
        lambda given: lambda at, name: _renew(at, _of_an_example(name, given[0]), given[1])
    ),
    st.tuples(call_id, grants, st.integers(0, 90), st.integers(0, 90), st.booleans()).map(
        lambda given: lambda at, name: at.settle(_settlement(name, *given))
    ),
)


def _of_an_example(name: str, given: Any) -> Any:
    """Budgets of tasks that no other example has."""
    return tuple((f"{name}{task_id}", budget) for task_id, budget in given)


def _reservation(name: str, asked: Any, task_id: str, attempt: int) -> Reservation:
    call, of, tokens, most = asked
    return Reservation(
        call_id=call, grants=_of_an_example(name, of), model="m", input_tokens=tokens, output_tokens=most,
        task_id=task_id, attempt=attempt,
    )  # fmt: skip


async def _reserve(at: Any, asked: Reservation, *, silent: bool) -> Any:
    """`silent`: nothing was said of any call for too long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "SILENT_MS", -1 if silent else 60_000)
        return await at.reserve(asked)


async def _renew(at: Any, of: Any, call_ids: list[str]) -> None:
    await at._run(RENEW, of, _packed(call_ids))


def _settlement(name: str, call: str, of: Any, read: int, written: int, known: bool) -> Settlement:
    return Settlement(call, _of_an_example(name, of), "m", read, written, known=known)


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(ACCOUNT_CALLS, min_size=1, max_size=15))
def _of_budgets(both: Both, calls: list[Call]) -> None:
    ours = MemoryAccounts(lambda: MemoryConnection(both.store), "budgets", PRICES)
    both.hear(ours, Accounts(both.connection, "budgets", PRICES), calls)


def test_budgets_are_the_same(redis_config: RedisConfig) -> None:
    with asyncio.Runner() as runner:
        _of_budgets(Both(runner, redis_config))


# ---- both ----


def _now_ms() -> float:
    return time.time() * 1000


class Both:
    """A server, and this process."""

    def __init__(self, runner: asyncio.Runner, redis_config: RedisConfig) -> None:
        self._runner = runner
        self._config = redis_config
        self.store = MemoryStore(time.time)
        self.items = MemoryItems(_now_ms)

    def connection(self) -> Wire:
        return Wire(self._config)

    def hear(self, ours: Any, theirs: Any, calls: list[Call]) -> None:
        """Makes the calls to both. Fails at the first that is answered differently."""
        self._runner.run(self._hear(ours, theirs, calls))

    async def _hear(self, ours: Any, theirs: Any, calls: list[Call]) -> None:
        name = f"example-{next(fresh)}-"
        async with _closing(ours), _closing(theirs):
            for number, call in enumerate(calls):
                said, expected = [await _answer(call(holder, name)) for holder in (ours, theirs)]
                assert said == expected, f"to call {number} memory says {said!r}, the server {expected!r}"


@asynccontextmanager
async def _closing(holder: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await holder.close()


async def _answer(calling: Awaitable[Any]) -> Any:
    try:
        return _without_times(await calling)
    except AgentSystemError as error:
        return type(error).__name__, str(error)


def _without_times(answer: Any) -> Any:
    if isinstance(answer, list | tuple) and not isinstance(answer, Fence):
        return [_without_times(part) for part in answer]
    if isinstance(answer, StoredCheckpoint):  # the order of values says nothing
        return replace(answer, values=tuple(sorted(answer.values, key=lambda value: value.channel)))
    return (answer.name, answer.ttl_ms, answer.value) if isinstance(answer, StoredItem) else answer
