"""Handlers that do to a worker what the authors of tasks do by mistake, for the tests of faults."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from worker.authoring.context import Context
from worker.authoring.handlers import task

MIB = 1 << 20

hoard: list[bytearray] = []
opened: list[int] = []


@task("quick")
async def quick(payload: Any) -> Any:
    return payload


@task("nap")
async def nap(payload: dict[str, Any], ctx: Context) -> str:
    note(payload["ledger"], ctx)
    await asyncio.sleep(payload["nap_s"])
    return "slept"


@task("neighbour")
async def neighbour(payload: dict[str, str], ctx: Context) -> None:
    """Ends when a file is there."""
    note(payload["ledger"], ctx)
    while not Path(payload["go"]).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@task("own_pid")
def own_pid() -> int:
    return os.getpid()


# what takes for ever


@task("endless_regex", retries=0)
def endless_regex() -> bool:
    return bool(re.match(r"(a+)+$", "a" * 60 + "b"))


@task("hold_loop")
async def hold_loop(payload: dict[str, Any], ctx: Context) -> int:
    """Blocks the worker's loop in its first attempt, at first without and then with the interpreter lock."""
    note(payload["ledger"], ctx)
    if ctx.attempt == 1:
        time.sleep(payload["hold_s"])  # noqa: ASYNC251
    if ctx.attempt == 1 and payload.get("for_ever"):
        re.match(r"(a+)+$", "a" * 60 + "b")
    return ctx.attempt


# what asks for the end of its process


async def exits() -> None:
    sys.exit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


@task("end_the_loop", retries=0)
async def end_the_loop(payload: str) -> str:
    loop = asyncio.get_running_loop()
    if payload == "gather":
        await asyncio.gather(exits(), asyncio.sleep(600))
    elif payload == "interrupt":
        await asyncio.gather(interrupts(), asyncio.sleep(600))
    elif payload == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(600))
            group.create_task(exits())
    elif payload == "callback":
        loop.call_soon(sys.exit, 3)
    elif payload == "stop":
        loop.stop()
    await asyncio.sleep(0.05)
    return "done"


@task("hang")
def hang(payload: str, ctx: Context) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(payload, ctx)
    while True:
        time.sleep(60)


def note(ledger: str, ctx: Context) -> None:
    with Path(ledger).open("a") as file:
        file.write(f"{ctx.attempt} {os.getpid()} {time.monotonic()}\n")


# what takes too much


@task("grow", retries=0)
def grow() -> None:
    """8 MiB at a time, until somebody says no. A local variable: what it held is free again afterwards."""
    held = []
    while True:
        held.append(bytearray(8 * MIB))
        print(f"{len(held) * 8} MiB", flush=True)  # noqa: T201


@task("grow_and_abort", retries=0)
def grow_and_abort() -> None:
    """As a library in C does that cannot go on without memory."""
    held = []
    try:
        while True:
            held.append(bytearray(MIB))
    except MemoryError:
        os.abort()


@task("allocate", retries=0)
def allocate(payload: int) -> int:
    return len(bytearray(payload * MIB))


@task("allocate_more", retries=0, memory_mb=512)
def allocate_more(payload: int) -> int:
    return len(bytearray(payload * MIB))


@task("leak_memory")
def leak_memory(payload: int) -> int:
    hoard.append(bytearray(payload * MIB))
    return os.getpid()


@task("leak_descriptors")
def leak_descriptors(payload: int) -> int:
    opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(payload))
    return os.getpid()


# what gives too much


@task("print_much")
def print_much(payload: int) -> str:
    line = b"x" * 1023 + b"\n"
    for _ in range(payload):
        sys.stdout.buffer.write(line * 1024)
    return "done"


@task("return_much", memory_mb=512)
def return_much(payload: int) -> str:
    return "x" * (payload * MIB)


# what leaves something behind


@task("fork", retries=0)
def fork(payload: dict[str, Any]) -> str:
    """Starts processes that sleep, every second one in a session of its own with nobody as its parent."""
    read_end, write_end = os.pipe()
    for number in range(payload["processes"]):
        if os.fork() == 0:
            if number % 2:
                os.setsid()
                if os.fork():
                    os._exit(0)
            os.write(write_end, b"%d\n" % os.getpid())
            os.close(write_end)
            time.sleep(600)
    os.close(write_end)
    pids = b""
    while pids.count(b"\n") < payload["processes"]:
        pids += os.read(read_end, 4096)
    Path(payload["ledger"]).write_bytes(pids)
    if payload["end"] == "sleep":
        time.sleep(600)
    if payload["end"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"
