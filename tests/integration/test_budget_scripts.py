"""What tasks may spend, counted on a server: all or nothing, once, and never more than there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from core.budget import Budget, Grants, Reservation, Settlement, ledger_of, left_of
from core.config.model_prices import Price, Prices
from core.config.settings import RedisConfig
from core.errors import BadTask, BudgetExhausted
from core.redis_client import Wire
from tests.waiting import until_async
from worker.hosts import accounts as module
from worker.hosts.accounts import Accounts

KEY = "{coordinator:k}:budgets"
PRICES = Prices({"m": Price(input=1.0, output=10.0)})


@pytest.fixture
async def counted(redis_config: RedisConfig) -> AsyncIterator[Accounts]:
    made = Accounts(lambda: Wire(redis_config), KEY, PRICES)
    yield made
    await made.close()


def grants(**limits: Any) -> Grants:
    return (("root", Budget(**limits)),)


def asks(call_id: str, of: Grants, *, model: str = "m", tokens: int = 10, most: int | None = 90, **fields: Any) -> Any:
    told = {"task_id": "root", "attempt": 1, **fields}
    return Reservation(call_id=call_id, grants=of, model=model, input_tokens=tokens, output_tokens=most, **told)


async def left(client: Any, of: Grants) -> dict[str, float]:
    return left_of(of, ledger_of(await client.hget(KEY, of[0][0])))


async def test_a_call_holds_what_it_may_use_and_pays_what_it_has_used_once(counted: Accounts, client: Any) -> None:
    of = grants(calls=2, tokens=1000, cost_usd=0.01)
    for _ in range(2):  # the worker asks again after an outage
        assert await counted.reserve(asks("a", of))
    assert await left(client, of) == {"calls": 1, "tokens": 900, "cost_usd": 0.01 - 0.00091}
    for _ in range(2):
        await counted.settle(Settlement("a", of, "m", 20, 30))
    assert await left(client, of) == {"calls": 1, "tokens": 950, "cost_usd": 0.01 - 0.00032}

    assert await counted.reserve(asks("b", of))
    await counted.settle(Settlement("b", of, "m", 0, 0, known=False))
    assert (await left(client, of))["tokens"] == 850
    with pytest.raises(BudgetExhausted, match="of task 'root' is spent: 2 of 2 calls"):
        await counted.reserve(asks("c", of))


@pytest.mark.parametrize("limit", ["calls", "tokens", "cost_usd"])
async def test_zero_is_zero(counted: Accounts, limit: str) -> None:
    with pytest.raises(BudgetExhausted, match="spent: 0 of 0"):
        await counted.reserve(asks("a", grants(**{limit: 0}), tokens=0, most=0))


async def test_a_share_of_a_child_is_never_more_than_what_is_left_above_it(counted: Accounts, client: Any) -> None:
    above = grants(calls=2)
    child: Grants = (*above, ("child", Budget(calls=9, tokens=50)))
    assert await counted.reserve(asks("a", child, task_id="child"))  # of 100 tokens it gets the 50 that there are
    assert await left(client, child) == {"calls": 1, "tokens": 0}
    await counted.settle(Settlement("a", child, "m", 10, 50))  # the model has used more
    with pytest.raises(BudgetExhausted, match="of task 'child' is spent: 60 of 50 tokens"):
        await counted.reserve(asks("b", child, task_id="child"))
    assert await counted.reserve(asks("c", above))
    with pytest.raises(BudgetExhausted, match="of task 'root'"):
        await counted.reserve(asks("d", (*above, ("other", Budget(calls=9)))))
    assert await left(client, above) == {"calls": 0}  # what was refused has taken nothing


async def test_many_calls_at_once_get_no_more_than_there_is(counted: Accounts) -> None:
    of = grants(calls=7)
    asked = [counted.reserve(asks(f"call-{number}", of)) for number in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answer for answer in answers if answer is True] == [True] * 7
    assert sum(isinstance(answer, BudgetExhausted) for answer in answers) == 13


async def test_a_call_waits_for_what_others_may_leave(counted: Accounts) -> None:
    of = grants(tokens=100)
    assert await counted.reserve(asks("a", of))
    assert not await counted.reserve(asks("b", of))
    with pytest.raises(BudgetExhausted):
        await counted.reserve(asks("huge", of, tokens=101))
    await counted.settle(Settlement("a", of, "m", 10, 10))
    assert await counted.reserve(asks("b", of))


async def test_what_a_lost_attempt_has_reserved_stays_spent_and_nobody_waits_for_it(
    counted: Accounts, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = grants(tokens=100, calls=9)
    assert await counted.reserve(asks("a", of))
    with pytest.raises(BudgetExhausted, match="100 of 100 tokens"):
        await counted.reserve(asks("b", of, attempt=2))
    await counted.settle(Settlement("a", of, "m", 0, 0))
    assert await left(client, of) == {"tokens": 100, "calls": 8}  # its own answer still counts: nobody knew better

    assert await counted.reserve(asks("c", of, task_id="other"))
    monkeypatch.setattr(module, "CALL_MS", -1)
    with pytest.raises(BudgetExhausted):
        await counted.reserve(asks("d", of))


async def test_nobody_waits_for_a_call_of_a_worker_that_is_gone_and_what_it_has_used_counts_if_it_is_not(
    counted: Accounts, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = grants(tokens=100)
    assert await counted.reserve(asks("a", of))
    monkeypatch.setattr(module, "SILENT_MS", 50)

    async def refused() -> bool:
        try:
            assert not await counted.reserve(asks("b", of, task_id="other"))
        except BudgetExhausted:
            return True
        return False

    await until_async(refused, "its worker has been silent for so long")
    assert await left(client, of) == {"tokens": 0}
    await counted.settle(Settlement("a", of, "m", 10, 10))
    assert await left(client, of) == {"tokens": 80}


async def test_nobody_waits_for_ever_for_a_call_that_a_living_run_has_forgotten(
    counted: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RENEWED_S", 0.02), ("CALL_MS", 100), ("SILENT_MS", 200)):
        monkeypatch.setattr(module, name, value)
    of = grants(tokens=100)
    assert await counted.reserve(asks("a", of))

    async def refused() -> bool:
        try:
            return await counted.reserve(asks("b", of, task_id="other"))
        except BudgetExhausted:
            return True

    await until_async(refused, "it takes longer than any call does")


async def test_a_worker_says_which_calls_are_under_way_as_long_as_there_are_any(
    counted: Accounts, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEWED_S", 0.02)
    one, other = grants(calls=5), (("other", Budget(calls=5)),)
    for call_id, of in (("a", one), ("b", one), ("c", other)):
        assert await counted.reserve(asks(call_id, of))

    async def said() -> dict[str, int]:
        ledgers = [ledger_of(await client.hget(KEY, of[0][0])) for of in (one, other)]
        return {call_id: held["at"] for ledger in ledgers for call_id, held in dict(ledger.open).items()}

    before = await said()

    async def renewed() -> bool:
        return all(at > before[call_id] for call_id, at in (await said()).items())

    assert len(before) == 3
    await until_async(renewed, "all are said to be under way")
    await counted.close()  # with calls that an outage has kept from being settled, say
    assert await counted.reserve(asks("a", one))
    before = await said()
    await until_async(renewed, "all are said to be under way once it is in use again")
    for call_id, of in (("a", one), ("b", one), ("c", other)):
        await counted.settle(Settlement(call_id, of, "m", 1, 1))
    assert await said() == {}
    assert len(asyncio.all_tasks()) == 1  # nothing is left to be said


async def test_a_limit_in_dollars_needs_a_price(counted: Accounts, client: Any) -> None:
    with pytest.raises(BadTask, match="no price of 'new' is known: name it, or '\\*'"):
        await counted.reserve(asks("a", grants(cost_usd=1), model="new"))
    assert await counted.reserve(asks("a", grants(tokens=100), model="new"))


async def test_a_ledger_that_is_none_counts_as_empty(counted: Accounts, client: Any) -> None:
    of = grants(calls=3)
    for wrong in (b"", b"\xc1", b"\x81\xa5spent\x01", b"\xd9"):
        await client.hset(KEY, "root", wrong)
        assert await left(client, of) == {"calls": 3}
        assert await counted.reserve(asks("a", of))
        await client.hdel(KEY, "root")
