"""A hierarchy behind two gateways, over real processes, for tests that use it as programs do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from core.chaos.processes import Processes
from tests.executor_bench import INTEGRATION
from tests.gateways import gateways_of
from tests.tiers import ForkedTiers
from tests.waiting import until

__all__ = ["EMPTY", "KEY", "TENANTS", "WORKERS", "Door", "data_of", "open_door", "start_worker"]

KEY = "a key of the tests"
#: The keys of two tenants, by their names.
TENANTS = {"acme": "a key of acme", "globex": "a key of globex"}
KEYS = ",".join(
    f"{name}:{role}:{hashlib.sha256(key.encode()).hexdigest()}{tenant}"
    for name, role, key, tenant in (
        ("ada", "operator", KEY, ""),
        ("eve", "viewer", "see", ""),
        *((name, "operator", key, f":{name}") for name, key in TENANTS.items()),
    )
)
EMPTY: Any = {"done": []}
WORKERS = ("worker-1", "worker-2")
CODE = str(INTEGRATION / "gateway_user_graphs.py")
#: The graphs of `gateway_user_graphs.py`.
GRAPHS = 11


def data_of(told: list[Any], event: str) -> list[Any]:
    """What the events of that name say."""
    return [part.data for part in told if part.event == event]


def start_worker(tiers: ForkedTiers, name: str) -> None:
    tiers.start("worker", name, "--distributor", "distributor-1", "--import", CODE)


@dataclass
class Door:
    """A hierarchy with two gateways, of which the second wants a key."""

    tiers: ForkedTiers
    urls: tuple[str, str]
    folder: Path


@contextmanager
def open_door(folder: Path, processes: Processes) -> Iterator[Door]:
    """The hierarchy, once all its graphs are there."""
    with gateways_of(processes, folder, CODE, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as gateways:
        start_worker(gateways.tiers, WORKERS[1])
        first, second = gateways.start_all({"GATEWAY_KEYS": ""}, {"GATEWAY_KEYS": KEYS})
        until(
            lambda: len(httpx.post(f"{first}/assistants/search", json={"limit": 100}).json()) >= GRAPHS,
            "the graphs are there",
            60,
        )
        yield Door(gateways.tiers, (first, second), folder)
