"""Limits of models without a server: the bucket, what a provider says, and calls of a process alone."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManager
from langchain_core.tools import tool

from core.errors import BadTask
from core.model_limits import Bucket, names_of, rates_of, stored_rates
from examples.offline_model import OfflineModel
from worker.authoring.model_limit import ModelLimit
from worker.authoring.rate_limit_errors import UNTOLD_MS, retry_after_ms

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("per_minute", "steps"),
    [
        (
            60,
            [("take", 6, 0), ("take", 1, 1000), ("fill", 500, 0), ("take", 1, 500)],
        ),  # a tenth at once, and one a second
        (3, [("take", 1, 0), ("take", 1, 20_000)]),  # at least one
        (600, [("take", 60, 0), ("fill", 3_600_000, 0), ("take", 61, 0), ("take", 1, 200)]),  # never more than full
        (
            1000,
            [("take", 900, 0), ("take", 1, 48_060), ("fill", 54_000, 0), ("take", 100, 0)],
        ),  # larger than the bucket
        (1000, [("take", 80, 0), ("take", -70, 0), ("take", 90, 0), ("take", 1, 60)]),  # what was not used comes back
    ],
)
def test_a_bucket_fills_with_the_time_and_pays_its_debts(per_minute: int, steps: list[tuple[str, int, int]]) -> None:
    bucket = Bucket(per_minute)
    for what, amount, wait_ms in steps:
        if what == "fill":
            bucket.fill(amount)
        else:
            assert bucket.wait_ms(amount) == pytest.approx(wait_ms)
            if not wait_ms:
                bucket.take(amount)


def test_the_name_that_says_most_comes_first_and_what_cannot_be_one_is_left_out() -> None:
    assert names_of("openai", "gpt-5") == ("openai:gpt-5", "gpt-5", "openai")
    assert names_of("?", "gpt-5") == ("gpt-5",)
    assert names_of("?", "?") == ()


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("openai", {}, "give requests_per_minute, tokens_per_minute or both"),
        ("openai", {"requests_per_minute": 0}, "freeze the limit"),
        ("openai", {"requests_per_minute": True}, "a whole number"),
        ("openai", {"tokens_per_minute": 1.5}, "a whole number"),
        ("two words", {"requests_per_minute": 1}, "such as 'openai', 'gpt-5'"),
        ("a{b}", {"requests_per_minute": 1}, "such as 'openai', 'gpt-5'"),
        (7, {"requests_per_minute": 1}, "such as 'openai', 'gpt-5'"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_the_cure(name: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadTask, match=words):
        ModelLimit(name, **fields)


def test_what_is_no_limit_is_stored_as_none() -> None:
    assert stored_rates(b'{"requests_per_minute": 5, "by_code": true}') is not None
    for wrong in (b"", b"\xff", b"[]", b'{"requests_per_minute": 0}', b'{"requests_per_minute": "5"}'):
        assert stored_rates(wrong) is None
    assert rates_of(requests_per_minute=5).limits == (5, 0)


class RateLimitError(Exception):
    """As clients of providers have one, without a status."""


class Odd(Exception):
    """Cannot be asked."""

    @property
    def status_code(self) -> int:
        raise RuntimeError("not now")


def refusal(told: dict[str, str] | None = None, status: int = 429) -> Exception:
    error: Any = Exception("no")
    error.response = SimpleNamespace(status_code=status, headers=told or {})
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "ms"),
    [
        (refusal({"Retry-After": "3"}), 3_000),
        (refusal({"retry-after-ms": "40", "retry-after": "3"}), 40),
        (refusal({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}), 9_000),
        (refusal({"retry-after": "Thu, 01 Jan 2025 00:00:09 GMT"}), 1),
        (refusal({"retry-after": "soon"}), UNTOLD_MS),
        (refusal({"retry-after": "1e300"}), 3_600_000),
        (refusal({"retry-after": "nan"}), UNTOLD_MS),
        (refusal(), UNTOLD_MS),
        (RateLimitError(), UNTOLD_MS),
        (refusal({"retry-after": "3"}, 500), 0),
        (ValueError("429"), 0),
        (Odd(), 0),
        (KeyboardInterrupt(), 0),
    ],
)
def test_what_a_provider_says_is_understood(error: BaseException, ms: int) -> None:
    assert retry_after_ms(error, NOW) == ms


async def test_outside_of_a_worker_a_process_keeps_to_the_limit_by_itself() -> None:
    limit = ModelLimit("any", requests_per_minute=1200)  # 120 at once, and 20 a second
    model = limit.wrap(OfflineModel())
    began_s = time.monotonic()
    answers = await asyncio.gather(*(model.ainvoke("hello") for _ in range(124)))
    said = await asyncio.to_thread(model.invoke, "hello")
    assert {answer.text for answer in answers} == {said.text}
    assert time.monotonic() - began_s >= 5 / 20 - 0.01


async def test_a_wrapped_model_is_still_one_and_keeps_its_callbacks() -> None:
    limit = ModelLimit("any", tokens_per_minute=1_000_000)

    @tool
    def weather(place: str) -> str:
        """The weather of a place."""
        return place

    others = CallbackManager([])
    callbacks: Any
    for callbacks in (None, [], others):
        model = limit.wrap(OfflineModel(callbacks=callbacks))
        assert isinstance(model, OfflineModel)
        assert model.bind_tools([weather]).invoke("the weather of Rome").tool_calls
    assert others.handlers == []
    assert limit.wrap(OfflineModel().bind_tools([weather])).invoke("the weather of Rome").tool_calls


async def test_a_provider_that_refuses_freezes_the_limit_of_the_process() -> None:
    limit = ModelLimit("any", requests_per_minute=1000)
    gate = limit._gate()
    refusing: Any = OfflineModel()

    def refuse(*_: Any, **__: Any) -> Any:
        raise refusal({"retry-after": "3600"})

    object.__setattr__(refusing, "_generate", refuse)
    with pytest.raises(Exception, match="no"):
        await limit.wrap(refusing).ainvoke("hello")
    waiting = asyncio.create_task(limit.wrap(OfflineModel()).ainvoke("hello"))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()
    assert gate._frozen_until_s > time.monotonic() + 3_000  # type: ignore[attr-defined]
