"""What the client of the load does about graphs: it answers what they ask, and follows what they tell."""

from __future__ import annotations

import asyncio
import random

from core.chaos.ledger import Ledger
from core.client.agent_client import AgentClient
from core.errors import AnswerRefused, TaskLost, TaskTimeout, WorldError
from core.waits import Question

__all__ = ["AGENTS", "AgentLoad"]

#: As `core.chaos.load.MIX`: the share of each graph beside it, and how long each of its nodes waits, in ms.
AGENTS = {"chaos.steps": (3, 50), "chaos.asks": (2, 50), "chaos.leads": (2, 50)}
#: To each question, of which one is taken.
ANSWERS = ("yes", "no")
POLL_S, ANSWER_S, RETRY_S = 0.2, 6.0, 0.2
#: The share of chunks after which a reader leaves, and comes back to go on behind it.
LEAVES = 0.2


class AgentLoad:
    """Run `answer` in an asyncio task, and `follow` for each run. `seed`: decides where readers leave."""

    def __init__(self, client: AgentClient, ledger: Ledger, seed: int) -> None:
        self._client = client
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._seen: set[tuple[str, str]] = set()  # questions, by task and id

    async def answer(self) -> None:
        """Answers all questions, until it is cancelled. Each gets two answers at the same time, and one of them
        counts."""
        async with asyncio.TaskGroup() as giving:
            while True:
                for question in await self._new_questions():
                    for answer in ANSWERS:
                        giving.create_task(self._give(question, answer))
                await asyncio.sleep(POLL_S)

    async def follow(self, task_id: str) -> None:
        """Records what the run of a task tells, and how often its end. Goes on where it was after an outage, and now
        and then for no reason."""
        chunks: list[str] = []
        ends: list[str] = []
        while not ends:
            try:
                async for chunk in self._client.stream(task_id, after=chunks[-1] if chunks else None):
                    if chunk.mode != "lifecycle":
                        chunks.append(chunk.id)
                        if self._chance.random() < LEAVES:
                            break
                    elif "status" in chunk.data:
                        ends.append(chunk.data["status"])
            except TaskLost:  # the judge will find that
                break
            except WorldError:
                await asyncio.sleep(RETRY_S)
        self._ledger.note("streamed", task_id, chunks=chunks, ends=ends)

    async def _new_questions(self) -> list[Question]:
        try:
            listed = await self._client.questions.aio(limit=1000, timeout_s=ANSWER_S)
        except (WorldError, TaskTimeout):
            return []
        new = {(question.task_id, question.interrupt_id): question for question in listed}
        new = {name: question for name, question in new.items() if name not in self._seen}
        self._seen |= set(new)
        return list(new.values())

    async def _give(self, question: Question, answer: str) -> None:
        """Gives an answer, again and again until it is taken or refused."""
        task_id, name = question.task_id, question.interrupt_id
        while True:
            try:
                await self._client.answer.aio(task_id, name, answer, question.digest, ANSWER_S)
            except AnswerRefused:  # the other one was taken
                return
            except (WorldError, TaskTimeout):
                await asyncio.sleep(RETRY_S)
            else:
                self._ledger.note("answered", task_id, question=name, answer=answer)
                return
