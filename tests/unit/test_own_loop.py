"""Who ends an event loop of ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from core.runtime.own_loop import run
from core.runtime.portal import portal_loop


async def exits() -> None:
    sys.exit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def stops() -> None:
    asyncio.get_running_loop().stop()


async def calls_exit() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)


async def told(work: Awaitable[object]) -> str:
    """What whoever awaits it is told."""
    try:
        await work
    except BaseException as error:
        return type(error).__name__
    return ""


WAYS = [(exits, "SystemExit"), (interrupts, "KeyboardInterrupt"), (stops, ""), (calls_exit, "")]


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_a_task_that_asks_for_the_end_is_heard_by_who_awaits_it_and_the_loop_goes_on(
    way: Callable[[], Awaitable[None]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[str, str]:
        other = asyncio.ensure_future(asyncio.sleep(0.01, "still here"))
        return await told(asyncio.ensure_future(way())), await other

    assert run(main()) == (name, "still here")
    [record] = caplog.records
    assert ("test_own_loop.py" in record.message) == (way in (exits, interrupts))


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_the_background_loop_of_a_program_goes_on_as_well(way: Callable[[], Awaitable[None]], name: str) -> None:
    async def gathered() -> str:
        return await told(asyncio.gather(way()))

    for _ in range(2):
        assert asyncio.run_coroutine_threadsafe(gathered(), portal_loop()).result(10) == name


def test_what_main_returns_or_raises_is_handed_on_though_what_is_left_exits_when_it_is_cancelled() -> None:
    async def exits_when_cancelled() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            sys.exit(3)

    async def main(error: Exception | None) -> str:
        left = asyncio.ensure_future(exits_when_cancelled())
        await asyncio.sleep(0)
        if error:
            raise error
        return f"done: {left.done()}"

    assert run(main(None)) == "done: False"
    with pytest.raises(ValueError, match="no"):
        run(main(ValueError("no")))
