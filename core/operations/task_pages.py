"""Reads the recorded tasks page by page, for those who come back for the next one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from core.errors import UserError
from core.operations.task_records import PAGE, Unreadable, read_records, record_in
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.tasks import Task

__all__ = ["TaskPage", "page_of_tasks"]

#: Records that one page reads at most, so that it takes its time however few of them are wanted.
MAX_READ = 2000
#: Open tasks come first, and then the ended ones; the newest of each first.
ORDERS = ("open", "ended")


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a task, in one of the two orders."""

    order: int = 0
    score: float = float("inf")  #: of the task: when it was submitted, or has ended (ms)
    task_id: bytes = b""

    @property
    def cursor(self) -> str:
        return base64.urlsafe_b64encode(b"%d %r " % (self.order, self.score) + self.task_id).decode()

    @classmethod
    def at(cls, cursor: str) -> Self:
        """Raises UserError: this is no cursor."""
        try:
            order, score, task_id = base64.urlsafe_b64decode(cursor.encode()).split(b" ", 2)
            return cls(range(len(ORDERS))[int(order)], float(score), task_id)
        except (ValueError, IndexError, binascii.Error):
            raise UserError("cursor: this is none; take `next_cursor` of the page before") from None


@dataclass(frozen=True, slots=True)
class TaskPage:
    tasks: list[Task]
    next_cursor: str | None  #: None: there are no more


async def page_of_tasks(
    source: Runs,
    coordinator_id: str,
    is_wanted: Callable[[Task], bool],
    cursor: str | None,
    limit: int,
    opened: Callable[[bytes, Any], Task | Unreadable] = record_in,
) -> TaskPage:
    """At most `limit` of the wanted tasks behind the cursor. There may be fewer and a next page all the same, since a
    page reads a bounded number of records. A task that ends meanwhile may come twice, and none is left out. Raises
    UserError, TransportDown, ServerRefused."""
    keys = CoordinatorKeys(coordinator_id)
    place = Place.at(cursor) if cursor else Place()
    found: list[Task] = []
    left = MAX_READ
    while left > 0:
        entries = await _behind(source, (keys.open, keys.ended)[place.order], place)
        left -= max(len(entries), 1)
        if not entries:
            if place.order == len(ORDERS) - 1:
                return TaskPage(found, None)
            place = Place(place.order + 1)
            continue
        names = [name for name, _ in entries]
        records = {record.task_id: record for record in await read_records(source, keys.tasks, names, opened)}
        for name, score in entries:
            place = Place(place.order, score, name)
            record = records.get(name.decode(errors="replace"))
            if isinstance(record, Task) and is_wanted(record):
                found.append(record)
                if len(found) == limit:
                    return TaskPage(found, place.cursor)
    return TaskPage(found, place.cursor)


async def _behind(source: Runs, key: str, place: Place) -> list[tuple[bytes, float]]:
    """The tasks of an order behind that place, with their scores; empty: there are none."""
    if not place.task_id:
        start = 0
    else:
        rank, newer = await source.run(("ZREVRANK", key, place.task_id), ("ZCOUNT", key, f"({place.score!r}", "+inf"))
        start = newer if rank is None else rank + 1
    while True:
        [flat] = await source.run(("ZREVRANGE", key, start, start + PAGE - 1, "WITHSCORES"))
        entries = [(name, float(score)) for name, score in zip(flat[::2], flat[1::2], strict=True)]
        behind = [entry for entry in entries if not place.task_id or _is_behind(entry, place)]
        if behind or not entries:
            return behind
        start += PAGE


def _is_behind(entry: tuple[bytes, float], place: Place) -> bool:
    name, score = entry
    return (score, name) < (place.score, place.task_id)
