"""What all simulated agents share: a store that is watched, and the weather on the way to it."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from core.memory_backend.clock import START_S, ServerTime
from core.memory_backend.connection import MemoryConnection, packed
from core.memory_backend.faulty_connection import CALM, Faults, FaultyConnection
from core.memory_backend.store import MemoryStore, Session
from core.ports import Command, OpenConnection, Part
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_client import ResponseError
from core.rehearsal.trace import Trace
from core.roles import Address, Role

__all__ = ["COORDINATOR", "SECRET", "Life", "ObservedStore", "Strike", "World"]

SECRET = b"a secret of simulated agents"
COORDINATOR = Address(Role.COORDINATOR, "coordinator-1")
CUT_OFF = Faults(cut=0.5, request_lost=0.3, late=0.2, max_late_s=4.0)
#: What a server without memory refuses.
WRITES = frozenset({"SET", "HSET", "HINCRBY", "SADD", "ZADD", "XADD", "INCR"})
#: How many of the messages that were posted last may come again.
OVERHEARD = 200


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault of one exchange: the nth that an agent has in a run, whichever of its processes has it."""

    who: str
    number: int
    kind: str
    at_s: float  #: since the start, virtual

    def __str__(self) -> str:
        return f"{self.who}: {self.kind.replace('_', ' ')} in exchange {self.number}"


class Life:
    """One process: from its start to its end. While `cut_off` it reaches the store hardly ever, or late; while
    `paused` it stands still, and goes on with what it was about to say."""

    def __init__(self) -> None:
        self.running: asyncio.Task[None] | None = None
        self.cut_off = False
        self.stood_still = False
        self.going_on = asyncio.Event()
        self.going_on.set()


class ObservedStore(MemoryStore):
    """After each transaction it looks whether versions went up by one, no epoch was given out twice or went down,
    messages were acknowledged in a commit, and requests of the client in the one that answers them."""

    def __init__(self, clock: ServerTime, headers: Sequence[str], problems: list[str], trace: Trace | None) -> None:
        super().__init__(clock)
        self._headers = [header.encode() for header in headers]
        self._problems = problems
        self._trace = trace
        self._observer = self.open_session()
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._posted: list[Sequence[bytes]] = []  # the arguments of XADD
        #: inbox and entry of a request of the client -> its id, until it is acknowledged
        self._requests: dict[tuple[bytes, bytes], str] = {}
        self.executed = 0
        self.full = False  #: whether it refuses writes

    def execute(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        queued = session.queued if name == "EXEC" else None
        reply = super().execute(session, name, arguments)
        self.executed += 1
        if name == "EXEC" and isinstance(reply, list):
            self._note(queued or ())
            self._look_at_acknowledged(queued or ())
            self._look()
        elif name == "XDEL" and session.queued is None and reply and b":inbox" in arguments[0]:
            self._problems.append(f"a message in {arguments[0].decode()} was acknowledged outside of a commit")
        return reply

    def request(self, request_id: str, *command: Part) -> None:
        """Posts a request of the client."""
        self._requests[packed(command[1]), self.ask(*command)] = request_id

    def ask(self, *command: Part) -> Any:
        """The reply to one command, without a connection."""
        name, *arguments = map(packed, command)
        reply = super().execute(self._observer, name.decode(), arguments)
        self._note([(name.decode(), arguments)])
        return reply

    def post_again(self, pick: float) -> str:
        """Posts the bytes of an earlier message again, as whoever has overheard it could. Returns where to."""
        if not self._posted:
            return "nobody"
        key, *rest = self._posted[int(pick * len(self._posted))]
        super().execute(self._observer, "XADD", [key, *rest])
        return key.decode()

    def _execute(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        if self.full and name in WRITES and session is not self._observer:
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        return super()._execute(session, name, arguments)

    def _note(self, commands: Sequence[tuple[str, Sequence[bytes]]]) -> None:
        for name, arguments in commands:
            if name == "XADD" and b":inbox" in arguments[0]:
                self._posted.append(arguments)
                del self._posted[:-OVERHEARD]
            if name == "XADD" and self._trace is not None:
                self._trace.message(arguments)
            if name == "SET" and arguments[0].endswith(b":fence"):
                self._check(arguments[0], b"epoch", int(arguments[1]), "grew")

    def _look_at_acknowledged(self, commands: Sequence[tuple[str, Sequence[bytes]]]) -> None:
        removals = [arguments for name, arguments in commands if name == "XDEL"]
        gone = [(arguments[0], entry) for arguments in removals for entry in arguments[1:]]
        told = [part for name, arguments in commands if name == "XADD" for part in arguments]
        for request_id in [self._requests.pop(entry) for entry in gone if entry in self._requests]:
            if not any(request_id.encode() in part for part in told):
                self._problems.append(f"request {request_id} was acknowledged in a commit that does not answer it")

    def _look(self) -> None:
        for header in self._headers:
            fields = super().execute(self._observer, "HGETALL", [header])
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                if name.endswith(b"version"):
                    self._check(header, name, int(value), "by one")
                elif name.endswith(b"epoch"):
                    self._check(header, name, int(value), "no less")

    def _check(self, key: bytes, name: bytes, value: int, how: str) -> None:
        before = self._seen.get((key, name), 0)
        if value < before or (how == "by one" and value > before + 1) or (how == "grew" and value == before):
            self._problems.append(f"{name.decode()} of {key.decode()} went from {before} to {value}")
        self._seen[key, name] = value


class World:
    """What all simulated agents share. `faults` holds for every connection, from its next exchange on."""

    def __init__(
        self,
        seed: int,
        cells: Sequence[CellKeys],
        workers: Sequence[tuple[str, str]],
        only: frozenset[tuple[str, int]] | None = None,
        *,
        traced: bool = False,
    ) -> None:
        """`only`: the exchanges that may be struck, by agent and number; None: all may be."""
        self.seed = seed
        self.time = ServerTime()
        self.problems: list[str] = []
        self.trace = Trace() if traced else None
        self.endings: Counter[str] = Counter()  #: why lives of agents ended
        self.began: Counter[str] = Counter()  #: attempts, by task id
        self.heard: dict[str, list[Any]] = {}  #: what runs that ask have been answered, by task id
        self.decisions: set[int] = set()  #: the distinct ones, see `agents`
        self.strikes: list[Strike] = []
        self.faults: Faults = CALM
        self._only = only
        self._exchanges: Counter[str] = Counter()
        headers = [CoordinatorKeys(COORDINATOR.agent_id).header, *(cell.header for cell in cells)]
        headers += [CellKeys(distributor).worker(worker).header for distributor, worker in workers]
        self.store = ObservedStore(self.time, headers, self.problems, self.trace)

    def connections(self, who: str, life: Life) -> OpenConnection:
        """Those of one process, which may be cut off from the store, or stand still, while others are not."""
        chance = Random(0)

        def struck() -> Faults:
            return self._struck(who, chance, CUT_OFF if life.cut_off else self.faults)

        return lambda: FaultyConnection(lambda: _OfALife(self.store, life), chance, struck)

    def _struck(self, who: str, chance: Random, faults: Faults) -> Faults:
        """What happens to the next exchange of an agent. It follows from the seed, the agent and the number of the
        exchange, so that a run with fewer faults has the others as before."""
        if faults is CALM:
            return CALM
        number = self._exchanges[who] = self._exchanges[who] + 1
        chance.seed(zlib.crc32(f"{self.seed} {who} {number}".encode()))
        kind = faults.draw(chance)
        if kind is None or (self._only is not None and (who, number) not in self._only):
            return Faults(slow=faults.slow)
        self.strikes.append(strike := Strike(who, number, kind, self.now_s))
        self.note(who, str(strike).partition(": ")[2], fault=True)
        return Faults(**{kind: 1.0}, slow=faults.slow, max_late_s=faults.max_late_s)

    def note(self, who: str, what: str, *, fault: bool = False) -> None:
        """Adds something to the trace, if there is one."""
        if self.trace is not None:
            self.trace.note(who, what, fault=fault)

    @property
    def now_s(self) -> float:
        """Since the start, virtual."""
        return asyncio.get_running_loop().time() - START_S


class _OfALife(MemoryConnection):
    """A connection of a process that may be paused: what it was about to say is said when it goes on."""

    def __init__(self, store: MemoryStore, life: Life) -> None:
        super().__init__(store)
        self._life = life

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        await self._life.going_on.wait()
        return await super().exchange(commands, timeout_s=timeout_s, max_bytes=max_bytes)
