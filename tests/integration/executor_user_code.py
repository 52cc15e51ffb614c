"""Handlers as users write them, well behaved and not, for the tests of the executor."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from core.tasks import Task
from worker.authoring.context import Context, Spawn, current_context
from worker.authoring.handlers import task

generator, seeded, reseeded = random.Random(), random.Random(7), random.Random()
reseeded.seed(7)
left_over: ContextVar[str] = ContextVar("left_over", default="nothing")


class Text(BaseModel):
    text: str


@dataclass
class Count:
    words: int


# well behaved


@task("count")
def count(payload: Text) -> Count:
    return Count(len(payload.text.split()))


@task("count_async")
async def count_async(payload: Text) -> Count:
    return Count(len(payload.text.split()))


@task("echo")
async def echo(payload: Any) -> Any:
    return payload


@task("echo_later")
async def echo_later(payload: Any) -> Any:
    await asyncio.sleep(0)
    return payload


@task("pid")
def pid() -> int:
    return os.getpid()


@task("chance")
def chance() -> dict[str, Any]:
    own, global_one = generator.random(), random.random()
    return {"pid": os.getpid(), "own": own, "reseeded": reseeded.random(), "seeded": seeded.random(), "all": global_one}


@task("mumble")
def mumble() -> int:
    """Prints a line that it does not end."""
    return sys.stdout.write("hm")


@task("environment")
def environment() -> list[str]:
    return list(os.environ)


@task("seen")
def seen(ctx: Context) -> dict[str, Any]:
    return _seen(ctx)


@task("seen_async")
async def seen_async(ctx: Context) -> dict[str, Any]:
    return _seen(ctx)


def _seen(ctx: Context) -> dict[str, Any]:
    same = current_context() is ctx
    return {"attempt": ctx.attempt, "key": ctx.idempotency_key, "deadline": ctx.deadline, "same": same}


@task("merge")
def merge(ctx: Context) -> list[Any]:
    return ctx.results()


@task("split")
def split(ctx: Context) -> Spawn:
    return ctx.spawn([Task(task_type="echo", payload=n) for n in (1, 2)], then="merge", payload="rest")


@task("split_async")
async def split_async(ctx: Context) -> Spawn:
    return ctx.spawn([Task(task_type="echo", payload=n) for n in (1, 2)], then="merge", payload="rest")


@task("report")
def report(ctx: Context) -> None:
    for step in range(1000):
        ctx.progress(step / 1000, "working", step=step)
    ctx.progress(0.75, "waiting")
    while not ctx.cancelled:
        time.sleep(0.01)


@task("report_async")
async def report_async(ctx: Context) -> None:
    for step in range(1000):
        ctx.progress(step / 1000, "working", step=step)
    ctx.progress(0.75, "waiting")
    await asyncio.Event().wait()


@task("variables")
async def variables(payload: str) -> str:
    before = left_over.get()
    left_over.set(payload)
    await asyncio.sleep(0)
    return before


# not so well behaved


@task("fail")
def fail(payload: str) -> NoReturn:
    raise ValueError(payload)


@task("fail_async")
async def fail_async(payload: str) -> NoReturn:
    raise ValueError(payload)


@task("raise_named")
def raise_named(payload: str) -> NoReturn:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[payload]("enough")


@task("raise_named_async")
async def raise_named_async(payload: str) -> NoReturn:
    raise {
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
    }[payload]("enough")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@task("fail_unprintable")
def fail_unprintable() -> NoReturn:
    raise Unprintable


@task("huge_error")
def huge_error() -> NoReturn:
    raise ValueError("x" * 10_000_000)


@task("regex_bomb", timeout=0.3)
def regex_bomb() -> bool:
    return bool(re.match(r"(a+)+$", "a" * 60 + "b"))


@task("deaf")
def deaf(payload: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(payload).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


@task("obedient")
def obedient(payload: str, ctx: Context) -> str:
    Path(payload).write_text(str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.01)
    return "half a result"


@task("wait_async")
async def wait_async() -> None:
    await asyncio.Event().wait()


@task("never_ends_async")
async def never_ends_async() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if left_over.get() == "over":
                raise
            left_over.set("over")


@task("exit_3")
def exit_3() -> None:
    print("last words", end="", flush=True)  # noqa: T201
    os._exit(3)


@task("kill_itself")
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task("close_everything", timeout=20)
def close_everything() -> None:
    os.closerange(3, 1000)
    time.sleep(60)


@task("say_and_end")
def say_and_end(payload: dict[str, str], ctx: Context) -> None:
    """Says something, on its way to an end that is none of the good ones."""
    ctx.progress(note="a note that is not needed")
    os.write(1, payload["text"].encode(payload.get("encoding", "utf-8")))
    if payload["end"] == "raise":
        raise ValueError("enough")
    if payload["end"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(60)


@task("note_and_end")
async def note_and_end(payload: dict[str, str], ctx: Context) -> None:
    ctx.progress(note="a note that comes too early")
    ctx.progress(note=payload["text"])
    if payload["end"] == "raise":
        raise ValueError("enough")
    await asyncio.Event().wait()


@task("talk")
def talk(payload: str) -> None:
    print(payload)  # noqa: T201
    os.write(2, b"from below\n")


@task("log")
def log(payload: str) -> None:
    logging.getLogger(__name__).warning(payload)


@task("log_async", retries=0)
async def log_async(payload: str) -> None:
    """From its own thread and from another; fails when it is told to."""
    logging.getLogger(__name__).warning(payload)
    await asyncio.to_thread(logging.getLogger(__name__).warning, "from below")
    if payload == "fail":
        raise ValueError(payload)


@task("talk_and_split")
def talk_and_split(payload: str, ctx: Context) -> Spawn:
    print(payload)  # noqa: T201
    return ctx.spawn([Task(task_type="echo")])


@task("flood")
def flood(payload: int) -> str:
    line = b"x" * 1023 + b"\n"
    for _ in range(payload // (1 << 20)):
        sys.stdout.buffer.write(line * 1024)
    return "done"


@task("large")
def large(payload: int) -> str:
    return "x" * payload


@task("large_async")
async def large_async(payload: int) -> str:
    return "x" * payload


@task("no_json")
def no_json() -> object:
    return {"it": object()}


@task("no_json_async")
async def no_json_async() -> object:
    return {"it": object()}


def not_run(kind: str) -> Any:
    async def coroutine() -> None: ...

    async def agenerator() -> AsyncIterator[int]:
        yield 1

    return {"coroutine": coroutine, "generator": lambda: (n for n in [1]), "async generator": agenerator}[kind]()


@task("unrun")
def unrun(payload: str) -> Any:
    return not_run(payload)


@task("unrun_async")
async def unrun_async(payload: str) -> Any:
    return not_run(payload)
