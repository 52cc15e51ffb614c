"""Limits of models, counted on a server: what a bucket lets through, to whom first, and what the dead leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config.settings import RedisConfig
from core.errors import TransportDown
from core.model_limits import Bucket, CallEnd, LimitedCall, Rates
from core.operations.limits import LimitState, freeze_limit, read_limits, remove_limit, set_limit
from core.operations.reader import Reader, reading
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.limit_scripts import ALIVE_MS, TAKE
from core.redis_client import Wire
from tests.waiting import until_async
from worker.hosts.fleet_limits import FleetLimits
from worker.hosts.limit_line import LimitLine

KEYS = CoordinatorKeys("k")
Fleet = Callable[[str], FleetLimits]


@pytest.fixture
async def fleet(redis_config: RedisConfig) -> AsyncIterator[Fleet]:
    """What workers of these names have."""
    made: list[FleetLimits] = []

    def worker(name: str) -> FleetLimits:
        made.append(FleetLimits(lambda: Wire(redis_config), KEYS, name, lambda *_: lambda: None))
        return made[-1]

    yield worker
    for each in made:
        await each.close()


@pytest.fixture
async def reader(redis_config: RedisConfig) -> AsyncIterator[Reader]:
    async with reading(redis_config) as opened:
        yield opened


def call(call_id: str, tokens: int = 10, **fields: Any) -> LimitedCall:
    return LimitedCall(call_id, f"task-{call_id}", ("gpt", "openai"), tokens, **fields)


async def state(reader: Reader) -> LimitState:
    [found] = await read_limits(reader, "k")
    return found


async def begins(limits: FleetLimits, reader: Reader, *calls: LimitedCall) -> list[asyncio.Task[str]]:
    """Calls that have to wait, in this order."""
    waiting = []
    for each in calls:
        before = (await state(reader)).waiting
        waiting.append(asyncio.create_task(limits.take(each)))
        await until_waiting(reader, before + 1)
    return waiting


async def until_waiting(reader: Reader, count: int) -> None:
    async def reached() -> bool:
        return (await state(reader)).waiting == count

    await until_async(reached, f"{count} wait")


async def later(client: Any, ms: int) -> None:
    """Has so much time passed for the bucket."""
    await client.hincrby(KEYS.limit("openai")[1], "at", -ms)


async def test_without_a_limit_of_its_name_a_call_is_let_through_uncounted(fleet: Fleet, reader: Reader) -> None:
    await set_limit(reader, "k", "other", Rates(requests_per_minute=1))
    assert await fleet("w").take(call("a")) == ""
    assert (await state(reader)).under_way == 0


async def test_what_is_let_through_is_counted_once_and_settled_once(fleet: Fleet, reader: Reader) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=100, tokens_per_minute=1000))
    worker = fleet("w")
    for _ in range(2):  # it asks again after an outage
        assert await worker.take(call("a", tokens=60)) == "openai"
    now = await state(reader)
    assert (now.requests_left, now.under_way) == (9, 1)
    assert now.tokens_left in range(40, 60)
    for _ in range(2):
        await worker.settle_call(CallEnd("a", "openai", 60, 80))
    now = await state(reader)
    assert now.under_way == 0
    assert now.tokens_left in range(20, 40)


async def test_a_call_that_is_given_up_when_it_was_just_let_through_costs_nothing(
    fleet: Fleet, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=100, tokens_per_minute=1000))
    enter = LimitLine.enter

    def entered(line: LimitLine, *asked: Any) -> asyncio.Future[None]:
        allowed = enter(line, *asked)
        allowed.add_done_callback(lambda _: taking.cancel())  # before the call has heard of that
        return allowed

    monkeypatch.setattr(LimitLine, "enter", entered)
    taking = asyncio.create_task(fleet("w").take(call("a", tokens=60)))
    with pytest.raises(asyncio.CancelledError):
        await taking

    now = await state(reader)
    assert now.under_way == 0
    assert now.tokens_left == 100


async def test_the_name_that_says_most_counts_alone(fleet: Fleet, reader: Reader) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    await set_limit(reader, "k", "gpt", Rates(requests_per_minute=50))
    worker = fleet("w")
    assert [await worker.take(call(f"{number}")) for number in range(3)] == ["gpt"] * 3


async def test_who_comes_first_goes_first_whichever_worker_asks(fleet: Fleet, reader: Reader, client: Any) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    one, other = fleet("w1"), fleet("w2")
    assert await one.take(call("first")) == "openai"
    gone: list[str] = []
    for number in range(4):
        [waiting] = await begins(one if number % 2 else other, reader, call(f"{number}"))
        waiting.add_done_callback(lambda _, number=number: gone.append(f"{number}"))  # type: ignore[misc]
    for number in range(4):
        await later(client, 61_000)
        await until_waiting(reader, 3 - number)
        await until_async(lambda: gone == [f"{each}" for each in range(number + 1)], "the next one goes")  # noqa: B023


async def test_a_frozen_limit_lets_nothing_through_until_it_thaws(fleet: Fleet, reader: Reader) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1000))
    worker = fleet("w")
    assert await worker.take(call("a")) == "openai"
    await worker.settle_call(CallEnd("a", "openai", 10, 0, frozen_ms=3_600_000))
    await worker.settle_call(CallEnd("b", "openai", 10, 0, frozen_ms=1_000))  # does not make it shorter
    [waiting] = await begins(worker, reader, call("c"))
    now = await state(reader)
    assert now.frozen_ms > 3_500_000
    assert (now.waiting, now.first) == (1, ("task-c",))
    await freeze_limit(reader, "k", "openai", 0)
    assert await waiting == "openai"


async def test_those_that_wait_go_when_the_limit_is_raised_or_removed(fleet: Fleet, reader: Reader) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    worker = fleet("w")
    assert await worker.take(call("a")) == "openai"
    waiting = await begins(worker, reader, call("b"), call("c"))
    await set_limit(reader, "k", "openai", Rates(tokens_per_minute=1_000_000))
    assert [await each for each in waiting] == ["openai"] * 2

    await freeze_limit(reader, "k", "openai", 3_600_000)
    [waits] = await begins(worker, reader, call("d"))
    assert await remove_limit(reader, "k", "openai")
    assert await waits == "openai"


async def test_what_code_says_counts_until_an_operator_says_something(fleet: Fleet, reader: Reader) -> None:
    worker, by_code = fleet("w"), Rates(requests_per_minute=100)
    assert await worker.take(LimitedCall("a", "t", ("openai",), 1, by_code)) == "openai"
    assert [(found.allows and found.allows.by_code, found.requests_left) for found in [await state(reader)]] == [
        (True, 9)
    ]
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    assert await worker.take(LimitedCall("b", "t", ("openai",), 1, by_code)) == "openai"
    assert (await state(reader)).requests_left == 0


async def test_who_no_longer_waits_holds_nobody_up(fleet: Fleet, reader: Reader, client: Any) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    one = fleet("w")
    assert await one.take(call("first")) == "openai"
    cancelled, left, waits = await begins(one, reader, call("cancelled"), call("left"), call("waits"))
    cancelled.cancel()
    await one.leave("left")
    assert await left == ""
    await until_waiting(reader, 1)
    assert not waits.done()


async def test_a_worker_that_has_died_holds_nobody_up(fleet: Fleet, reader: Reader, client: Any) -> None:
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    dead, other = fleet("dead"), fleet("w")
    assert await dead.take(call("first")) == "openai"
    await begins(dead, reader, *(call(f"dead-{number}") for number in range(3)))
    await dead.close()
    [waits] = await begins(other, reader, call("waits"))
    [worker] = [name for name in await client.zrange(KEYS.limit("openai")[-1], 0, -1) if name.startswith(b"dead")]
    await client.zincrby(KEYS.limit("openai")[-1], -ALIVE_MS - 1, worker)
    await until_waiting(reader, 1)
    await later(client, 61_000)
    assert await waits == "openai"


async def test_what_somebody_else_wrote_stops_nobody(fleet: Fleet, reader: Reader, client: Any) -> None:
    limits, bucket, line, _, _ = KEYS.limit("openai")
    worker = fleet("w")
    await client.hset(limits, "openai", b"\xff")
    await client.hset(bucket, mapping={"at": "x", "requests": b"\xff", "frozen": "soon", "tokens": "nan"})
    await client.zadd(line, {"nonsense": -5, "a b c d": -4, "ghost call 5 task": -3})
    assert await worker.take(call("a")) == "openai"
    assert (await state(reader)).allows is None


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 400), st.integers(0, 60_000), st.integers(0, 800)), min_size=1, max_size=12
    ),
    requests=st.integers(1, 600),
    tokens=st.integers(1, 5000),
)
async def test_a_bucket_on_the_server_is_the_one_in_words(
    redis_config: RedisConfig, client: Any, steps: list[tuple[int, int, int]], requests: int, tokens: int
) -> None:
    """Calls that ask for tokens, after a while, and use others. They are let through when the model of the bucket says
    so, whose clock is that of the server."""
    await client.flushdb()
    limits = FleetLimits(lambda: Wire(redis_config), KEYS, "w", lambda *_: lambda: None)
    async with reading(redis_config) as reader:
        await set_limit(reader, "k", "openai", Rates(requests_per_minute=requests, tokens_per_minute=tokens))
    calls, told = Bucket(requests), Bucket(tokens)
    try:
        for number, (asked, pause_ms, used) in enumerate(steps):
            await later(client, pause_ms)
            at = await client.hget(KEYS.limit("openai")[1], "at")
            member = f"{limits._me} {number} {asked} t".encode()
            wait_ms, [*let_through] = await limits._run(TAKE, "openai", limits._me, b"", _packed([member]), _packed([]))
            now_ms = int(await client.hget(KEYS.limit("openai")[1], "at"))
            for bucket in (calls, told):
                bucket.fill(0 if at is None else now_ms - int(at))
            expected_ms = max(calls.wait_ms(1), told.wait_ms(asked))
            assert wait_ms == pytest.approx(expected_ms if expected_ms else -1, abs=2)
            assert [int(each) for each in let_through] == ([] if expected_ms else [number])
            if expected_ms:
                await limits._run(TAKE, "openai", limits._me, b"", _packed([]), _packed([member]))
                for bucket in (calls, told):
                    bucket.fill(int(await client.hget(KEYS.limit("openai")[1], "at")) - now_ms)
            else:
                calls.take(1)
                told.take(asked)
                await limits.settle_call(CallEnd(str(number), "openai", asked, used))
                for bucket in (calls, told):
                    bucket.fill(int(await client.hget(KEYS.limit("openai")[1], "at")) - now_ms)
                told.take(used - asked)
    finally:
        await limits.close()


def _packed(members: list[bytes]) -> bytes:
    import msgspec

    return msgspec.msgpack.encode([member.decode() for member in members])


@pytest.fixture
async def line(fleet: Fleet, reader: Reader) -> AsyncIterator[tuple[LimitLine, asyncio.Event, list[int]]]:
    """The line of a worker, in which one call waits; what its looks wait for, and the numbers of those that found the
    server away, which are those that begin while there is none."""
    await set_limit(reader, "k", "openai", Rates(requests_per_minute=1))
    limits, is_up, lost = fleet("w"), asyncio.Event(), list[int]()
    assert await limits.take(call("first")) == "openai"

    async def run(*asked: Any) -> Any:
        if not is_up.is_set():
            lost.append(len(lost))
            raise TransportDown("away")
        return await limits._run(*asked)

    is_up.set()
    line = LimitLine(run, "openai", "w")
    for name in ("a", "b"):
        line.enter(name, 1, "t", None)
    await until_waiting(reader, 2)
    yield line, is_up, lost
    await line.close()


async def test_a_call_that_leaves_while_the_server_is_away_leaves_the_line_later(
    line: tuple[LimitLine, asyncio.Event, list[int]], reader: Reader
) -> None:
    waiting, is_up, lost = line
    is_up.clear()
    waiting.leave("b")
    await until_async(lambda: bool(lost), "the server could not be told")
    is_up.set()

    await until_waiting(reader, 1)


async def test_a_call_that_comes_and_leaves_before_the_server_is_told_never_stands_in_line(
    line: tuple[LimitLine, asyncio.Event, list[int]], reader: Reader
) -> None:
    waiting, *_ = line
    waiting.enter("c", 1, "t", None)
    waiting.leave("c")
    waiting.leave("b")

    await until_waiting(reader, 1)
