"""When attempts are looked at, and stopped in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from core.memory_backend.clock import VirtualLoop, run_virtual
from core.tasks import Task
from worker.authoring.context import Context, Progress
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers
from worker.execution.attempts import Attempts, Finished
from worker.execution.in_process import InProcess

HOUR_S = 3600.0


class Ran:
    """Attempts at a handler in virtual time, with what they told, and when."""

    def __init__(
        self, function: Callable[..., Coroutine[Any, Any, Any]], timeout_s: float, *, refuses_progress: bool = False
    ) -> None:
        handlers = Handlers()
        handlers.add(
            Handler(
                task_type="slow", function=function, kind="async", timeout_s=timeout_s, max_attempts=1, memory_mb=None,
                wants_payload=False, wants_context=True, payload_default=NO_DEFAULT, payload_model=None,
                capabilities=(), module=__name__, qualname="slow", source=__file__,
            )
        )  # fmt: skip
        self.loop, self.reports, self.ended = asyncio.get_running_loop(), list[float](), list[tuple[float, str]]()
        self.began_s = self.loop.time()
        self.refuses_progress = refuses_progress
        self.attempts = Attempts(
            handlers, InProcess(), concurrency=9, on_finished=self._finished, on_progress=self._reported
        )

    async def run(self, *task_ids: str, apart_s: float = 0.0) -> None:
        await self.attempts.start()
        for task_id in task_ids:
            self.attempts.submit(Task(task_id=task_id, task_type="slow"))
            await asyncio.sleep(apart_s)
        while len(self.ended) < len(task_ids):  # noqa: ASYNC110 - virtual time passes at once
            await asyncio.sleep(HOUR_S)
        await self.attempts.close()

    def _finished(self, finished: Finished) -> None:
        self.ended.append((self.loop.time() - self.began_s, finished.status))

    def _reported(self, progress: Progress) -> None:
        if self.refuses_progress:
            raise RuntimeError("nobody takes it")
        self.reports.append(self.loop.time() - self.began_s)


def test_an_attempt_that_runs_for_an_hour_is_not_looked_at_all_the_while() -> None:
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(HOUR_S)

    turns = 0

    async def main() -> list[tuple[float, str]]:
        loop, ran = asyncio.get_running_loop(), Ran(slow, timeout_s=2 * HOUR_S)
        assert isinstance(loop, VirtualLoop)
        select = loop._selector.select  # type: ignore[attr-defined]

        def counted(timeout: float | None = None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        loop._selector.select = counted  # type: ignore[attr-defined]
        await ran.run("a")
        return ran.ended

    assert run_virtual(main(), seed=1) == [(HOUR_S, "completed")]
    assert turns < 100


def test_each_attempt_is_stopped_at_its_own_time_although_another_runs_longer() -> None:
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(2 * HOUR_S)

    async def main() -> list[tuple[float, str]]:
        ran = Ran(slow, timeout_s=60.0)
        await ran.run("a", "b", "c", apart_s=7.0)
        return ran.ended

    ended = run_virtual(main(), seed=1)

    assert [status for _, status in ended] == ["failed"] * 3
    assert all(due_s <= at_s <= due_s + 0.1 for due_s, (at_s, _) in zip((60.0, 67.0, 74.0), ended, strict=True))


def test_progress_is_passed_on_soon_after_a_long_silence() -> None:
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(1800)
        ctx.progress(0.5)
        await asyncio.sleep(1800)

    async def main() -> list[float]:
        ran = Ran(slow, timeout_s=2 * HOUR_S)
        await ran.run("a")
        return ran.reports

    [reported_s] = run_virtual(main(), seed=1)

    assert 1800 <= reported_s <= 1800.2


def test_progress_that_nobody_can_take_ends_no_timeouts() -> None:
    async def slow(ctx: Context) -> None:
        ctx.progress(0.5)
        await asyncio.sleep(HOUR_S)

    async def main() -> list[tuple[float, str]]:
        ran = Ran(slow, timeout_s=10.0, refuses_progress=True)
        await ran.run("t")
        return ran.ended

    [(ended_s, status)] = run_virtual(main(), seed=1)

    assert status == "failed"
    assert 10 <= ended_s < HOUR_S
