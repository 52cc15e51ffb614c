"""A store that keeps an eye on the versions, the weather on the way to it, and a client in the calm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import orjson

from core.a2a_messaging import A2AMessage
from core.memory_backend.clock import ServerTime
from core.memory_backend.connection import MemoryConnection, packed
from core.memory_backend.faulty_connection import CALM, Faults, FaultyConnection
from core.memory_backend.store import MemoryStore, Session
from core.ports import Command, OpenConnection, Part
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import Outbox
from core.signing import KeyRing, Signed
from core.step import Sending, Step
from core.tasks import Task

__all__ = ["COORDINATOR", "SECRET", "ObservedStore", "SimulatedClient", "World"]

SECRET = b"a secret of simulated agents"
COORDINATOR = Address(Role.COORDINATOR, "coordinator-1")
CUT_OFF = Faults(cut=0.5, request_lost=0.3, late=0.2, max_late_s=4.0)
CLIENT = Address(Role.CLIENT, "client-1")


class ObservedStore(MemoryStore):
    """After each transaction it looks whether versions went up by one and fences did not go down."""

    def __init__(self, clock: ServerTime, headers: Sequence[str], problems: list[str]) -> None:
        super().__init__(clock)
        self._headers = [header.encode() for header in headers]
        self._problems = problems
        self._observer = self.open_session()
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self.executed = 0

    def execute(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        reply = super().execute(session, name, arguments)
        self.executed += 1
        if name == "EXEC" and isinstance(reply, list):
            self._look()
        return reply

    def ask(self, *command: Part) -> Any:
        """The reply to one command, without a connection."""
        name, *arguments = map(packed, command)
        return super().execute(self._observer, name.decode(), arguments)

    def _look(self) -> None:
        for header in self._headers:
            fields = super().execute(self._observer, "HGETALL", [header])
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                if name.endswith(b"version"):
                    self._check(header, name, int(value), range(2))
                elif name.endswith(b"epoch"):
                    self._check(header, name, int(value), None)

    def _check(self, header: bytes, name: bytes, value: int, steps: range | None) -> None:
        before = self._seen.get((header, name), 0)
        if value < before or (steps is not None and value - before not in steps):
            self._problems.append(f"{name.decode()} of {header.decode()} went from {before} to {value}")
        self._seen[header, name] = value


class World:
    """What all simulated agents share. `faults` holds for every connection, from its next exchange on."""

    def __init__(self, seed: int, cells: Sequence[CellKeys], workers: Sequence[tuple[str, str]]) -> None:
        self.chance = Random(seed)
        self.time = ServerTime()
        self.problems: list[str] = []
        self.endings: Counter[str] = Counter()  #: why lives of agents ended
        self.began: Counter[str] = Counter()  #: attempts, by task id
        self.heard: dict[str, list[Any]] = {}  #: what runs that ask have been answered, by task id
        self.faults: Faults = CALM
        headers = [CoordinatorKeys(COORDINATOR.agent_id).header, *(cell.header for cell in cells)]
        headers += [CellKeys(distributor).worker(worker).header for distributor, worker in workers]
        self.store = ObservedStore(self.time, headers, self.problems)

    def connections(self, cut_off: Callable[[], bool]) -> OpenConnection:
        """Those of one process, which may be cut off from the store while others are not."""
        return lambda: FaultyConnection(
            lambda: MemoryConnection(self.store), self.chance, lambda: CUT_OFF if cut_off() else self.faults
        )


class SimulatedClient:
    """Says everything once, over a connection that never fails, and never says it again."""

    def __init__(self, world: World) -> None:
        chain = (COORDINATOR, CLIENT)
        self._world = world
        self._signing = KeyRing.from_secret(SECRET, chain)
        self._outbox = Outbox(chain, self._signing)
        self._outbox.incarnation = 1
        self._said: list[Command] = []
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

    def repeat(self) -> None:
        """Posts the bytes of an earlier message again, as whoever has overheard it could."""
        if self._said:
            self._send(self._world.chance.choice(self._said))

    @property
    def waits(self) -> bool:
        """Whether it has not been told yet of the end of everything it has submitted."""
        self._listen()
        return any(task_id not in self.results for task_id in self.submitted if task_id not in self.refused)

    def _say(self, action: Action, items: list[bytes]) -> str:
        """Returns the id of the request."""
        step = Step()
        step.sends[Sending(COORDINATOR, action)] = items
        for command in self._outbox.commands(step, int(self._world.time() * 1000)):
            self._said.append(command)
            self._send(command)
        return self._outbox.request_id(COORDINATOR, self._outbox.sent[COORDINATOR])

    def _send(self, command: Command) -> None:
        self._world.store.ask(*command)

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
