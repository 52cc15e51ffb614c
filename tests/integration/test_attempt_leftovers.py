"""What one attempt leaves behind in its process does not decide how the next one fares."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.executor_bench import Bench, error_of

UNTIDY_CODE = str(Path(__file__).parent / "untidy_user_code.py")

TAKE_ANOTHER_PROCESS = {"closed stream", "stream taken apart", "stream wrapped"}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """One child at a time."""
    bench = Bench(concurrency=1, code=UNTIDY_CODE)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


async def result_of(bench: Bench, task_type: str, payload: Any = None) -> Any:
    finished = await bench.run(task_type, payload)
    assert finished.error is None, finished.error
    return finished.result


async def test_an_attempt_finds_what_the_first_one_found_whatever_those_before_it_have_changed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    found = await result_of(bench, "look")
    for kind in await result_of(bench, "kinds"):
        capsys.readouterr()
        assert await result_of(bench, "leave", kind) == found["pid"], kind
        after = await result_of(bench, "look")
        if kind in TAKE_ANOTHER_PROCESS:
            assert after["pid"] != found["pid"], kind
            found = {**found, "pid": after["pid"], "descriptors": after["descriptors"]}
        assert after == found, kind
        assert "looked" in capsys.readouterr().err, kind


async def test_an_attempt_that_fails_leaves_no_more_behind(bench: Bench) -> None:
    found = await result_of(bench, "look")
    for kind in ("directory", "environment", "streams", "closed loop"):
        assert error_of(await bench.run("leave_and_fail", kind)).message == kind
        assert await result_of(bench, "look") == found, kind


async def test_the_alarm_of_an_attempt_does_not_strike_the_next_one(bench: Bench) -> None:
    assert await result_of(bench, "strike") == await result_of(bench, "outlast")
