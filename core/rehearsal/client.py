"""A client in the calm, who says everything once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from core.a2a_messaging import A2AMessage
from core.redis_backend.keys import CoordinatorKeys
from core.rehearsal.world import COORDINATOR, SECRET, World
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing, Signed
from core.step import Sending, Step
from core.tasks import Task

__all__ = ["SimulatedClient"]

CLIENT = Address(Role.CLIENT, "client-1")


class SimulatedClient:
    """Says everything once, over a connection that never fails, and never says it again."""

    def __init__(self, world: World) -> None:
        chain = (COORDINATOR, CLIENT)
        self._world = world
        self._signing = KeyRing.from_secret(SECRET, chain)
        self._outbox = Outbox(chain, self._signing)
        self._outbox.incarnation = 1
        self._read = b"-"
        self.submitted: dict[str, Task] = {}
        self.refused: set[str] = set()
        self.results: dict[str, list[dict[str, Any]]] = {}  #: by task id: every reply that tells of its end
        self.answers: Counter[str] = Counter()  #: by request
        self.given: dict[tuple[str, str], list[Any]] = {}  #: its answers, by task and question
        self.taken: dict[tuple[str, str], list[Any]] = {}  #: those of them that were not refused
        self._answering: dict[str, tuple[str, str, Any]] = {}  # request -> task, question, and the answer

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted.update((task.task_id, task) for task in tasks)
        self._say(Action.SUBMIT_TASK, [task.to_json() for task in tasks])

    def cancel(self, task_id: str) -> None:
        self._say(Action.CANCEL_TASK, [orjson.dumps(task_id)])

    def answer(self, task_id: str, question: str, value: Any, digest: str | None) -> None:
        """Answers a question."""
        self.given.setdefault((task_id, question), []).append(value)
        item = {"task_id": task_id, "interrupt_id": question, "value": value, "digest": digest}
        request_id = self._say(Action.ANSWER_QUESTION, [orjson.dumps(item)])
        self._answering[request_id] = (task_id, question, value)

    @property
    def waits(self) -> bool:
        """Whether it has not been told yet of the end of everything it has submitted."""
        self._listen()
        return any(task_id not in self.results for task_id in self.submitted if task_id not in self.refused)

    def _say(self, action: Action, items: list[bytes]) -> str:
        """Returns the id of the request."""
        step = Step()
        step.sends[Sending(COORDINATOR, action)] = items
        first = self._outbox.sent.get(COORDINATOR, 0) + 1
        for number, command in enumerate(self._outbox.commands(step, int(self._world.time() * 1000)), first):
            self._world.store.request(self._outbox.request_id(COORDINATOR, number), *command)
        return self._outbox.request_id(COORDINATOR, self._outbox.sent[COORDINATOR])

    def _listen(self) -> None:
        key = CoordinatorKeys(COORDINATOR.agent_id).replies(CLIENT)
        for entry_id, fields in self._world.store.ask("XRANGE", key, self._read, "+"):
            if entry_id == self._read:
                continue
            self._read = entry_id
            signed = Signed.from_fields(fields)
            self._signing.verify(signed)
            self._take(A2AMessage.decode(signed.body))

    def _take(self, message: A2AMessage) -> None:
        if message.action == Action.TASK_ACCEPTED:
            request_id = message.metadata.parent_request_id or ""
            self.answers[request_id] += 1
            refused = {refusal["task_id"] for refusal in message.payload.get("refused", ())}
            if answered := self._answering.get(request_id):
                if not refused:
                    self.taken.setdefault(answered[:2], []).append(answered[2])
            else:
                self.refused |= refused
        for item in message.tasks if message.action == Action.TASK_RESULT else ():
            result = orjson.loads(bytes(item))
            self.results.setdefault(result["task_id"], []).append(result)
