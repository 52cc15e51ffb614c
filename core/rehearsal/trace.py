"""What happened in a run, step by step: who decided what, who told whom, and the faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from core.memory_backend.clock import START_S

__all__ = ["Moment", "Trace"]


class Moment(NamedTuple):
    """One step of a trace."""

    at_s: float  #: since the start, virtual
    who: str  #: an agent, the client, or empty: the world
    to: str  #: whom it tells; empty: nobody
    what: str
    fault: bool = False

    def __str__(self) -> str:
        whom = f"{self.who} -> {self.to}" if self.to else self.who
        return f"{self.at_s:8.3f}  {'! ' if self.fault else '  '}{whom:<36}  {self.what}"


class Trace:
    """The moments of one run, in order."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def note(self, who: str, what: str, *, fault: bool = False) -> None:
        """Adds something that is no message."""
        self._add(who.partition(":")[2], "", what, fault=fault)

    def message(self, arguments: Sequence[bytes]) -> None:
        """Adds a message, from the arguments of the XADD that has posted it; others are left out, and so is what is
        kept as evidence, which may have been cut."""
        if b":inbox" not in arguments[0]:
            return
        body = next((part for part in arguments[2:] if part[:1] == b"{" and b'"sender"' in part[:400]), None)
        if body is not None:
            message = orjson.loads(body)
            self._add(message["sender"], message["recipient"], _said(message["payload"]))

    def _add(self, who: str, to: str, what: str, *, fault: bool = False) -> None:
        self.moments.append(Moment(asyncio.get_running_loop().time() - START_S, who, to, what, fault))


def _said(payload: dict[str, Any]) -> str:
    items = payload.get("tasks") or ([payload["task"]] if "task" in payload else [])
    named = [item if isinstance(item, str) else f"{item.get('task_id')} {item.get('status', '')}" for item in items]
    return f"{payload.get('action', '?')} {', '.join(map(str.strip, named))}".rstrip()
