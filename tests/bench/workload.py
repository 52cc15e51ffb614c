"""What every system is given, and how it is driven."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import psutil

__all__ = ["System", "check", "payload"]

#: With its number and the braces, a payload has about 150 bytes of JSON.
_TEXT = (
    "a task of the size that people send: an address, an id, a few numbers, and a flag or two about what is to be done."
)


def payload(number: int) -> dict[str, object]:
    return {"number": number, "text": _TEXT}


def check(results: Iterable[object], count: int) -> None:
    """Every task answered with its own number, none twice, none missing."""
    if sorted(map(int, map(str, results))) != list(range(count)):
        raise AssertionError("the results are not those of the tasks")


class System(Protocol):
    """A task system that runs, as processes, on a server of its own."""

    name: str

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """Its processes by what they do; what they start belongs to them."""

    def run(self, count: int) -> None:
        """Submits `count` tasks, collects all results and verifies them."""

    def close(self) -> None:
        """Ends its processes."""
