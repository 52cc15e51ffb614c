"""Embeds texts of the store in workers, by tasks: a gateway loads no code of users."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from langchain_core.embeddings import Embeddings

from core.client.agent_client import AgentClient
from core.errors import TaskFailed, TaskTimeout
from core.gateway.problems import Problem
from core.gateway.store_indexes import KNOWN_S, StoreIndexes
from core.store_index import Embedded, StoreIndex, ToEmbed, size_of, tasks_for
from core.tasks import Priority, Task

__all__ = ["FleetEmbeddings"]

#: How long workers may take to embed, s: long enough for another one to do it when one dies.
WITHIN_S = 30.0
#: How long a task may stand for a gateway that has died and does not cancel it, s.
LEFT_S = 60.0
ATTEMPTS = 3
#: Seconds that the cancelling of what nobody waits for any more may take.
CANCEL_S = 2.0
#: What the lane of a tenant is called, in which its texts are embedded; its own name is that of its tasks, and quotas.
OF_TENANT = "embeds:"


class FleetEmbeddings(Embeddings):
    """Lets the workers that have an index embed. What they cannot do raises Problem; what is too much, BadTask."""

    def __init__(self, client: AgentClient, indexes: StoreIndexes, index: StoreIndex, tenant: str | None) -> None:
        """`tenant`: whose texts they are; None: nobody's in particular."""
        self._client = client
        self._indexes = indexes
        self._index = index
        self._tenant = None if tenant is None else f"{OF_TENANT}{tenant}"

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        parts = tasks_for(texts, self._index.dims)
        answers = await self._answers(parts)
        return [
            vector
            for part, answer in zip(parts, answers, strict=True)
            for vector in self._vectors(answer, len(part.texts))
        ]

    async def aembed_query(self, text: str) -> list[float]:
        size_of(text)
        [answer] = await self._answers([ToEmbed(query=text)])
        return self._vectors(answer, 1)[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError("await aembed_documents: this waits for workers")

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError("await aembed_query: this waits for workers")

    def _vectors(self, answer: Embedded, count: int) -> list[list[float]]:
        if answer.error:
            raise Problem(503, f"{self._index.embed!r} has failed in a worker, and nothing was stored: {answer.error}")
        try:
            return answer.unpacked(count, self._index.dims)
        except ValueError as error:
            raise Problem(503, f"a worker has not given the vectors of {self._index}: {error}") from None

    async def _answers(self, parts: Sequence[ToEmbed]) -> list[Embedded]:
        tasks = [self._task(part) for part in parts]
        ended = False
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._client.submit_many.aio(tasks, WITHIN_S)
                told = await self._told(tasks)
            ended = True
            return msgspec.convert(told, list[Embedded])
        except (TimeoutError, TaskTimeout):
            raise Problem(
                503, f"no worker that has {self._index} has embedded within {WITHIN_S:.0f} s, and nothing was stored:"
                " they are busy, or have died; start more of them"
            ) from None  # fmt: skip
        except (TaskFailed, msgspec.ValidationError) as error:
            raise Problem(503, f"what embeds has failed in a worker, and nothing was stored: {error}") from None
        finally:
            if not ended:
                cancelled = (self._client.cancel.aio(task.task_id, CANCEL_S) for task in tasks)
                await asyncio.gather(*cancelled, return_exceptions=True)  # some have ended, or were never recorded

    async def _told(self, tasks: Sequence[Task]) -> list[Any]:
        """The results. Raises Problem as soon as nobody is left who could give them."""
        told = asyncio.gather(*(self._client.value.aio(task.task_id) for task in tasks))
        try:
            while not (await asyncio.wait([told], timeout=KNOWN_S))[0]:
                now = await self._indexes.current()
                if now is None or now.digest != self._index.digest:
                    raise Problem(503, "workers have another index since a moment ago; nothing was stored, try again")
            return await told
        finally:
            told.cancel()

    def _task(self, part: ToEmbed) -> Task:
        return Task(
            task_type=self._index.task_type,
            payload=msgspec.to_builtins(part),
            priority=Priority.HIGH,
            max_attempts=ATTEMPTS,
            deadline=datetime.now(UTC) + timedelta(seconds=WITHIN_S + LEFT_S),
            tenant=self._tenant,
        )
