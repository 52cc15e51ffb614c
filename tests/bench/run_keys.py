"""`python -m tests.bench.run_keys`: what the signing of streams takes in each tier, and for each entry."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from itertools import starmap

from core.agent_run import RunOptions
from core.roles import Address, Role
from core.run_keys import AttemptKey, RunKey
from core.run_stream import EntryCheck
from core.runtime.outbox import Outbox
from core.signing import KeyRing
from core.step import Keyed
from core.tasks import Task

ROUNDS, CALLS = 15, 2_000
ENTRY_BYTES = 1_000
K, D, W, C = (Address(role, "a") for role in (Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER, Role.CLIENT))


def costs() -> dict[str, Callable[[], object]]:
    """By what is done, one call of it."""
    rings = {chain[-1]: KeyRing.from_secret(b"of the benchmark", chain) for chain in ((K,), (K, D), (K, D, W), (K, C))}
    task = Task(task_id="t", task_type="speaks", run=RunOptions(stream=["messages"]), owner=str(C), attempt=1)
    record, number, chunks = task.to_json(), itertools.count(), os.urandom(ENTRY_BYTES)
    above, middle = Outbox((K,), rings[K]), Outbox((K, D), rings[D])
    to_distributor = rings[K].wrapped(rings[K].run_keys("t", C), D)
    handed = task.evolve(run_key=to_distributor)
    to_worker = rings[D].wrapped([rings[C].run_keys("t")[0].of_attempt(1)], W)
    [key] = starmap(AttemptKey, rings[W].unwrapped(to_worker))
    mac, check = key.mac(1, chunks), EntryCheck(rings[C].run_keys("t"))
    entry = {b"attempt": b"1", b"number": b"1", b"kid": key.key_id.encode(), b"chunks": chunks, b"mac": mac}
    return {
        "an attempt: its coordinator": lambda: above._with_key(Keyed.of(record, task), D),
        "an attempt: its distributor": lambda: middle._with_key(
            Keyed.of(handed.evolve(run_key=None).to_json(), handed), W
        ),
        "an attempt: its worker": lambda: [*starmap(RunKey, rings[W].unwrapped(to_worker))],
        f"an entry of {ENTRY_BYTES:,} bytes: its worker": lambda: key.mac(next(number), chunks),
        f"an entry of {ENTRY_BYTES:,} bytes: each reader": lambda: check.is_signed(entry),
    }


def main() -> None:
    calls = costs()
    spent: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(ROUNDS):  # by turns
        for what, call in calls.items():
            began_s = time.process_time()
            for _ in range(CALLS):
                call()
            spent[what].append((time.process_time() - began_s) * 1e6 / CALLS)
    for what, each in spent.items():
        print(f"{what:40} {min(each):5.1f} µs")


if __name__ == "__main__":
    main()
