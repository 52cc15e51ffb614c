"""Tells when tasks ask a person something, for many tasks with one look."""

from __future__ import annotations

import asyncio

from core.checkpoints.connection import GroupedConnection
from core.errors import WorldError

__all__ = ["QuestionsWatch"]

#: Seconds between two looks.
LOOK_S = 0.05


class QuestionsWatch:
    """Looks only while somebody waits, and waits while Redis is away."""

    def __init__(self, connection: GroupedConnection, questions_key: str) -> None:
        self._connection = connection
        self._key = questions_key
        self._awaited: dict[str, set[asyncio.Future[None]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def asks(self, task_id: str) -> None:
        """Returns when the task asks something."""
        asked = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(task_id, set()).add(asked)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await asked
        finally:
            waiting = self._awaited.get(task_id, set())
            waiting.discard(asked)
            if not waiting:
                self._awaited.pop(task_id, None)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        while self._awaited:
            await asyncio.sleep(LOOK_S)  # many are over before
            task_ids = list(self._awaited)
            try:
                scores = await self._connection.run(*(("ZSCORE", self._key, task_id) for task_id in task_ids))
            except WorldError:
                scores = []
            for task_id, score in zip(task_ids, scores, strict=False):
                if score is not None:
                    for asked in self._awaited.pop(task_id, ()):
                        if not asked.done():
                            asked.set_result(None)
