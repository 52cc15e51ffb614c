"""Handlers that do to asyncio, and to their own outcome, what they should not, for the tests of attempts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from core.tasks import Task, Then
from tests.odd_errors import ODD_ERRORS
from worker.authoring.context import Context, Spawn
from worker.authoring.handlers import task

gate = threading.Event()
seen: list[asyncio.Task[Any] | None] = []


@task("echo_slowly")
async def echo_slowly(payload: Any) -> Any:
    for _ in range(5):
        await asyncio.sleep(0)
    return payload


@task("wait_for_ever")
async def wait_for_ever() -> None:
    await asyncio.Event().wait()


@task("is_new")
async def is_new() -> bool:
    """Whether it runs in a task that none before it ran in, and that nobody has cancelled."""
    me = asyncio.current_task()
    assert me is not None
    known = me in seen
    seen.append(me)
    return not known and not me.cancelling()


@task("cancel_me_later")
async def cancel_me_later() -> str:
    """Leaves a timer behind that cancels what it runs in, soon after it has ended."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    loop.call_soon(lambda: loop.call_soon(me.cancel))
    return "done"


@task("cancel_itself")
async def cancel_itself() -> None:
    me = asyncio.current_task()
    assert me is not None
    me.cancel("enough")
    await asyncio.sleep(0)


@task("cancel_neighbours")
async def cancel_neighbours() -> None:
    for neighbour in asyncio.all_tasks():
        if neighbour.get_name() == "echo_slowly":
            neighbour.cancel()


@task("block_threads", timeout=0.3)
async def block_threads(payload: int) -> None:
    """Makes so many calls that do not return before the gate is opened."""
    await asyncio.gather(*(asyncio.to_thread(gate.wait) for _ in range(payload)))


@task("need_a_thread")
async def need_a_thread() -> str:
    return await asyncio.to_thread(lambda: "done")


@task("block_loop")
async def block_loop() -> None:
    gate.wait()


@task("block_loop_below")
async def block_loop_below() -> None:
    await asyncio.create_task(block_loop())


@task("raise_odd")
def raise_odd(payload: str) -> None:
    raise ODD_ERRORS[payload]()


@task("raise_odd_async")
async def raise_odd_async(payload: str) -> None:
    raise ODD_ERRORS[payload]()


@task("spawn_badly")
def spawn_badly(payload: str, ctx: Context) -> Spawn:
    return bad_spawn(payload, ctx)


@task("spawn_badly_async")
async def spawn_badly_async(payload: str, ctx: Context) -> Spawn:
    return bad_spawn(payload, ctx)


def bad_spawn(payload: str, ctx: Context) -> Spawn:
    if payload == "no task":
        return Spawn((1,), Then())  # type: ignore[arg-type]
    if payload == "no json":
        return Spawn((Task(task_type="echo"),), Then(payload_json=object()))  # type: ignore[arg-type]
    child_payload: list[object] = []
    spawn = ctx.spawn([Task(task_type="echo", payload=child_payload)])
    child_payload.append(object())
    return spawn


class Note(str):
    def encode(self, *_: Any, **__: Any) -> bytes:
        raise SystemExit(3)


@task("note_oddly")
async def note_oddly(ctx: Context) -> None:
    ctx.progress(note=Note("halfway"))
    raise ValueError
