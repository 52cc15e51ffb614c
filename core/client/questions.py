"""What a client does about the questions of suspended tasks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from core.agent_run import RunOptions, Stream
from core.client.quotas import QuotaSetter
from core.errors import AnswerRefused, BadTask, UnknownTask
from core.json_values import payload_json
from core.reports import MAX_QUESTIONS, GivenAnswer, QuestionsWanted, item_of
from core.roles import Action
from core.runtime.portal import operation
from core.waits import Question

__all__ = ["Questions"]


class Questions(QuotaSetter):
    """A part of AgentClient: it lists open questions, and answers them."""

    _listings: dict[str, tuple[Any, ...]]  #: what was listed and not taken yet, by the name of the request

    @operation
    async def questions(
        self, task: str | None = None, root: str | None = None, limit: int = 100, timeout_s: float = 30.0
    ) -> list[Question]:
        """The open questions of tasks that this client may see, at most `limit` (up to 1,000), and those first that
        have waited longest; with `task`, only those of that task, with `root`, of that and all below it. A listing ends
        early when what is asked has more than 1 MiB.

        Raises BadTask: there is no such `limit`. TaskTimeout, TransportDown, ServerRefused, PeerError: as `submit`."""
        if not 1 <= limit <= MAX_QUESTIONS:
            raise BadTask(f"questions: limit is {limit}, and has to be from 1 to {MAX_QUESTIONS}")
        named = {name: str(task_id) for name, task_id in (("task", task), ("root", root)) if task_id is not None}
        wanted = QuestionsWanted(
            listing=secrets.token_hex(8), limit=limit, **named
        )  # str: ids of programs are FreshIds
        self._listings[wanted.listing] = ()
        try:
            await self._ask(Action.LIST_QUESTIONS, [item_of(wanted)], timeout_s)
            return list(self._listings[wanted.listing])
        finally:
            del self._listings[wanted.listing]

    @operation
    async def answer(
        self,
        task_id: str,
        interrupt_id: str,
        value: Any = None,
        digest: str | None = None,
        timeout_s: float = 30.0,
        *,
        stream: Sequence[Stream] = (),
    ) -> bool:
        """Answers a question of a suspended task, which goes on when all its questions are answered. Returns True once
        the answer is recorded. With the `digest` of a Question it is taken only if that is still what is asked. For a
        breakpoint (`breakpoint:NODE`) the value means nothing. `stream`: modes in which the run tells from now on,
        besides those that its task was submitted with.

        A question is answered once, and giving the same answer again is safe. Raises AnswerRefused, with the reason: it
        has another answer, it was asked anew, there is no such question, or the task has ended. BadTask: the value is
        no JSON or too large, or there is no such mode. UnknownTask: there is no such task, or it belongs to another
        client. TaskTimeout, TransportDown, ServerRefused, PeerError: as `submit`."""
        value_json = Raw(payload_json(f"answer to question {interrupt_id!r} of task {task_id!r}", value))
        modes = RunOptions(stream=tuple(stream)).stream
        given = GivenAnswer(
            task_id=str(task_id), interrupt_id=interrupt_id, value_json=value_json, digest=digest, stream=modes
        )
        for refusal in await self._ask(Action.ANSWER_QUESTION, [item_of(given)], timeout_s):
            if refusal.reason == "unknown task":
                raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
            raise AnswerRefused(refusal.reason)
        return True

    def _on_listed(self, listings: Mapping[str, tuple[Any, ...]]) -> None:
        """Takes what the coordinator lists; nothing if nobody waits for that any more."""
        self._listings |= {name: listed for name, listed in listings.items() if name in self._listings}
