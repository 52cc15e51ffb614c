"""The tasks that a client waits for, and the ended ones that it knows. The cost of one does not grow with their
number."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from core.tasks import Task

__all__ = ["Endings", "Listener"]


@dataclass(slots=True, eq=False)
class Listener:
    """A call that waits for some tasks to end."""

    waiting: dict[str, None]  #: ids that it has not been given yet, in the order in which it asked
    ended: deque[Task] = field(default_factory=deque)  #: given, and not yet taken
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self, task: Task) -> None:
        del self.waiting[task.task_id]
        self.ended.append(task)
        self.news.set()

    async def hear(self, timeout_s: float) -> None:
        """Returns when a task has been given to it, or after that time."""
        self.news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.news.wait()


#: Ended tasks kept in memory that nobody has asked for: their number, and the bytes of what they were given and have
#: given. Older ones are read from their records.
MAX_UNASKED, MAX_UNASKED_BYTES = 50_000, 128 * 1024 * 1024


class Endings:
    """The ended tasks of one client, each kept once, whether one reply, two or the record told of it."""

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}  # submitted or watched and not known to have ended -> known to be recorded
        self._ended: OrderedDict[str, Task] = OrderedDict()  # known, and nobody has asked for them yet
        self._ended_bytes = 0
        self._listeners: dict[str, list[Listener]] = {}
        self._unsure: dict[str, list[asyncio.Event]] = {}  # by task: who waits until it is known to exist

    def __contains__(self, task_id: str) -> bool:
        """Whether the end of this task is known, or will be told."""
        return task_id in self._open or task_id in self._ended

    def expect(self, task_ids: Iterable[str]) -> None:
        """Notes that the ends of these will be told, if there are such tasks."""
        for task_id in task_ids:
            self._open.setdefault(task_id, False)

    def confirm(self, task_ids: Iterable[str]) -> None:
        """Notes that these tasks exist: the coordinator has said so, or their record was seen."""
        for task_id in task_ids:
            if task_id in self._open:
                self._open[task_id] = True
                self._assure(task_id)

    async def assured(self, task_id: str) -> None:
        """Returns once this task is known to exist, and so to be one that the client may see. Somebody has to listen
        for it meanwhile."""
        if self.is_confirmed(task_id) or task_id in self._ended:
            return
        waiting, sure = self._unsure.setdefault(task_id, []), asyncio.Event()
        waiting.append(sure)
        try:
            await sure.wait()
        finally:
            waiting.remove(sure)
            if not waiting and self._unsure.get(task_id) is waiting:
                del self._unsure[task_id]

    def _assure(self, task_id: str) -> None:
        for sure in self._unsure.pop(task_id, ()):
            sure.set()

    def is_confirmed(self, task_id: str) -> bool:
        return self._open.get(task_id, False)

    def forget(self, task_id: str) -> None:
        """Notes that the end of this one will not be told after all. If several listen for it, each has to find that
        out."""
        if len(self._listeners.get(task_id, ())) <= 1:
            self._open.pop(task_id, None)

    def is_open(self, task_id: str) -> bool:
        return task_id in self._open

    def tell(self, task: Task) -> None:
        """Takes an ended task, if it is awaited, and gives it to every listener."""
        if task.task_id not in self._open:
            return
        del self._open[task.task_id]
        self._assure(task.task_id)
        listeners = self._listeners.pop(task.task_id, None)
        if listeners is None:
            self._keep(task)
        else:
            for listener in listeners:
                listener.give(task)

    def _keep(self, task: Task) -> None:
        self._taken(task.task_id)
        self._ended[task.task_id] = task
        self._ended_bytes += _bytes_of(task)
        while len(self._ended) > MAX_UNASKED or self._ended_bytes > MAX_UNASKED_BYTES:
            self._taken(next(iter(self._ended)))

    def _taken(self, task_id: str) -> Task | None:
        """An ended task that is kept no longer; None: it was not."""
        task = self._ended.pop(task_id, None)
        if task is not None:
            self._ended_bytes -= _bytes_of(task)
        return task

    def listen(self, task_ids: Iterable[str]) -> Listener:
        """A listener that is given these tasks when they end, and known ones at once. Call `leave` afterwards."""
        listener = Listener(dict.fromkeys(task_ids))
        for task_id in list(listener.waiting):
            known = self._taken(task_id)
            if known is not None:
                listener.give(known)
            else:
                self._listeners.setdefault(task_id, []).append(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Ends a listener; the tasks that it has not taken can be asked for again."""
        for task in listener.ended:
            self._keep(task)
        for task_id in listener.waiting:
            others = self._listeners.get(task_id, [])
            if listener in others:
                others.remove(listener)
            if not others:
                self._listeners.pop(task_id, None)


def _bytes_of(task: Task) -> int:
    return memoryview(task.payload_json).nbytes + memoryview(task.result_json).nbytes
