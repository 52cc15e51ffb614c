"""Somebody who fills a coordinator's inbox with what is no message of anybody, and how honest ones fare meanwhile.

    python -m tests.faults.flood [--kind forged] [--rate 20000] [--seconds 10]

A server, a coordinator and the flood are processes of their own; this one submits a task at a time and prints how long
each took to be accepted, what the coordinator got through and how much memory it took.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import hiredis
import psutil

from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.redis_backend.keys import CoordinatorKeys
from core.signing import key_id_of
from core.tasks import Task
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import SECRET, Tiers
from tests.waiting import until

__all__ = ["KINDS", "flood", "flooding"]

KINDS = ("no message", "forged", "strangers")
#: Written at once.
CHUNK = 250
BODY = "x" * 300


def _entry(kind: str, number: int) -> tuple[str, ...]:
    """Fields and values: of what is obviously none; of what has all that can be seen of one, from a client that there
    is, or from ever new ones."""
    if kind == "no message":
        return ("hello", "world", "body", BODY)
    sender = f"client:stranger-{number}" if kind == "strangers" else "client:honest"
    return ("from", sender, "kid", key_id_of(SECRET.encode()), "sig", f"{number:064x}", "body", BODY)


def _pack(command: tuple[str, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # declared for one part only
    return packed


def flood(path: str, password: str, key: str, kind: str, entries: int, rate: float) -> None:
    """Adds so many, `rate` of them a second."""
    replies, replied = hiredis.Reader(), 0
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(path)
        wire.sendall(_pack(("AUTH", password)))
        began_s = time.monotonic()
        for first in range(0, entries, CHUNK):
            wire.sendall(b"".join(_pack(("XADD", key, "*", *_entry(kind, first + n))) for n in range(CHUNK)))
            while replied < first + CHUNK + 1:
                replies.feed(wire.recv(1 << 20))
                while replies.gets():
                    replied += 1
            time.sleep(max(0.0, began_s + (first + CHUNK) / rate - time.monotonic()))


@contextmanager
def flooding(server: RedisServer, key: str, kind: str, entries: int, rate: float) -> Iterator[subprocess.Popen[bytes]]:
    """A flood in a process of its own, which is ended at the end."""
    wanted = (str(server.socket), server.password, key, kind, f"{entries}", f"{rate}")
    program = (
        "from sys import argv; from tests.faults.flood import flood; flood(*argv[1:5], int(argv[5]), float(argv[6]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, *wanted]) as process:
        try:
            yield process
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, default="forged")
    parser.add_argument("--rate", type=float, default=20_000)
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    inbox, entries = CoordinatorKeys("k").inbox, int(asked.rate * asked.seconds)
    with RedisServer(bundled_server()) as server, TemporaryDirectory(dir="/tmp") as directory:
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        with Tiers(redis, Path(directory)) as tiers, AgentClient(redis, tiers.secrets, "k", "honest") as client:
            tiers.start("coordinator", "k")
            client.submit(Task(task_type="x"))
            process = psutil.Process(tiers.pid("k"))
            before = process.memory_info().rss
            used_s, took_s, peak, longest = sum(process.cpu_times()[:2]), [], before, 0
            with flooding(server, inbox, asked.kind, entries, asked.rate) as running, server.connect() as looking:
                began_s = time.monotonic()
                while running.poll() is None:
                    asked_s = time.monotonic()
                    client.submit(Task(task_type="x"), timeout_s=60)
                    took_s.append(time.monotonic() - asked_s)
                    peak, longest = max(peak, process.memory_info().rss), max(longest, looking.xlen(inbox))
                took_flood_s = time.monotonic() - began_s
                until(lambda: looking.xlen(inbox) == 0, "the inbox is empty", 300)
                drained_s = time.monotonic() - began_s
            used_s = sum(process.cpu_times()[:2]) - used_s
            took_s.sort()
            sys.stdout.write(
                f"{asked.kind}: {entries / took_flood_s:,.0f} entries/s for {took_flood_s:.1f} s, all gone after"
                f" {drained_s:.1f} s ({entries / drained_s:,.0f}/s, {entries / used_s:,.0f} in a second of CPU time);"
                f" {len(took_s)} tasks accepted meanwhile, median {took_s[len(took_s) // 2]:.3f} s,"
                f" worst {took_s[-1]:.3f} s; longest queue {longest:,}; memory +{(peak - before) / 2**20:.0f} MiB\n"
            )


if __name__ == "__main__":
    main()
