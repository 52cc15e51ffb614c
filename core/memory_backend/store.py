"""A store in memory that answers as Redis does, as far as this system uses Redis.

It executes one command at a time, and never waits: a read that would have to wait is returned as a BlockedRead. It
refuses unknown commands, as a server does. Keys expire by its clock. Nothing outlives the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.memory_backend.arguments import wrong_number
from core.memory_backend.commands import COMMANDS, OK, CommandSpec
from core.memory_backend.keyspace import Keyspace
from core.memory_backend.stream_commands import STREAM_COMMANDS, block_ms_of
from core.redis_client import ResponseError

__all__ = ["BlockedRead", "MemoryStore", "Session"]

KNOWN = {**COMMANDS, **STREAM_COMMANDS}
QUEUED = b"QUEUED"

Request = tuple[str, Sequence[bytes]]


class Session:
    """The state of one connection: the keys that it watches, and its transaction."""

    def __init__(self) -> None:
        self.watched: set[bytes] = set()
        self.disturbed = False  #: whether a watched key has changed
        self.queued: list[Request] | None = None  #: the commands of its transaction; None: there is none
        self.refused = False  #: whether a command of the transaction was refused


class BlockedRead:
    """A read that has found nothing, and waits. `answer` is called once, as soon as there is an entry."""

    def __init__(self, arguments: Sequence[bytes], block_ms: int) -> None:
        self.arguments = arguments
        self.block_ms = block_ms  #: 0: without a limit
        self.answer: Callable[[Any], None] = lambda reply: None


class MemoryStore:
    """The data, for any number of connections. `clock` returns seconds since 1970, and may be set."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._space = Keyspace(clock, self._changed)
        self._sessions: set[Session] = set()
        self._blocked: list[BlockedRead] = []
        self._any_change = False

    # ---- for connections ----

    def open_session(self) -> Session:
        session = Session()
        self._sessions.add(session)
        return session

    def close_session(self, session: Session) -> None:
        """Drops the connection's watches and its transaction."""
        self._sessions.discard(session)

    def execute(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        """Executes a command. Returns its reply: bytes, int, None or lists of them; a ResponseError, which is not
        raised, if the command is refused; or a BlockedRead."""
        name = name.upper()
        try:
            reply = self._execute(session, name, arguments)
        except ResponseError as refusal:
            if session.queued is not None and name not in ("MULTI", "WATCH"):
                session.refused = True
            reply = refusal
        if self._any_change:
            self._any_change = False
            self._serve()
        return reply

    def block(self, read: BlockedRead, answer: Callable[[Any], None]) -> None:
        """Makes `answer` be called with the reply as soon as there is one. End this with `unblock`."""
        read.answer = answer
        self._blocked.append(read)

    def unblock(self, read: BlockedRead) -> None:
        if read in self._blocked:
            self._blocked.remove(read)

    # ---- one command ----

    def _execute(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        if name in CONTROL:
            if bool(arguments) is not (name == "WATCH"):
                raise wrong_number(name)
            return CONTROL[name](self, session, arguments)
        spec = _spec_of(name, arguments)
        if session.queued is not None:
            session.queued.append((name, arguments))
            return QUEUED
        reply = spec.carry_out(self._space, arguments)
        if reply is None and name == "XREAD" and (block_ms := block_ms_of(arguments)) is not None:
            return BlockedRead(arguments, block_ms)
        return reply

    def _watch(self, session: Session, keys: Sequence[bytes]) -> bytes:
        if session.queued is not None:
            raise ResponseError("ERR WATCH inside MULTI is not allowed")
        for key in keys:
            self._space.exists(key)  # an expired key is watched as missing
        session.watched.update(keys)
        return OK

    def _unwatch(self, session: Session, arguments: Sequence[bytes]) -> bytes:
        if session.queued is not None:
            session.queued.append(("UNWATCH", arguments))
            return QUEUED
        session.watched.clear()
        session.disturbed = False
        return OK

    def _multi(self, session: Session, arguments: Sequence[bytes]) -> bytes:
        if session.queued is not None:
            raise ResponseError("ERR MULTI calls can not be nested")
        session.queued, session.refused = [], False
        return OK

    def _exec(self, session: Session, arguments: Sequence[bytes]) -> list[Any] | None:
        """Executes the transaction, and returns the replies. Returns None, and executes nothing, if a watched key has
        changed or expired."""
        if session.queued is None:
            raise ResponseError("ERR EXEC without MULTI")
        for key in session.watched:
            self._space.exists(key)
        queued, session.queued = session.queued, None
        disturbed, refused = session.disturbed, session.refused
        self._unwatch(session, ())
        if refused:
            raise ResponseError("EXECABORT Transaction discarded because of previous errors.")
        return None if disturbed else [self._queued(session, name, arguments) for name, arguments in queued]

    def _queued(self, session: Session, name: str, arguments: Sequence[bytes]) -> Any:
        """The reply to one command of a transaction, which never waits. An error stands in the place of the reply."""
        if name == "UNWATCH":
            return self._unwatch(session, arguments)
        try:
            return KNOWN[name].carry_out(self._space, arguments)
        except ResponseError as refusal:
            return refusal

    # ---- what follows from a change ----

    def _changed(self, key: bytes) -> None:
        self._any_change = True
        for session in self._sessions:
            if key in session.watched:
                session.disturbed = True

    def _serve(self) -> None:
        """Answers the waiting reads that have entries now. Those that have waited longest come first."""
        for read in list(self._blocked):
            try:
                reply = KNOWN["XREAD"].carry_out(self._space, read.arguments)
            except ResponseError:  # its key is of another type now: it waits until that is a stream again
                continue
            if reply is not None:
                self._blocked.remove(read)
                read.answer(reply)


def _spec_of(name: str, arguments: Sequence[bytes]) -> CommandSpec:
    spec = KNOWN.get(name)
    if spec is None:
        raise ResponseError(f"ERR unknown command '{name}'")
    if not spec.takes(len(arguments)):
        raise wrong_number(name)
    return spec


CONTROL: dict[str, Callable[[MemoryStore, Session, Sequence[bytes]], Any]] = {
    "WATCH": MemoryStore._watch,
    "UNWATCH": MemoryStore._unwatch,
    "MULTI": MemoryStore._multi,
    "EXEC": MemoryStore._exec,
}
