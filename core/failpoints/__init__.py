"""Named points in the life of an agent at which a test makes it die, stand still, fail or wait.

    AGENT_FAILPOINTS="before-exec:3:kill,read:1:delay=500"       NAME:NTH:ACTION, separated by commas

The third time that this process is about to send a transaction it kills itself; what it had read first waits half a
second. Actions: `kill` (SIGKILL), `stop` (SIGSTOP, until somebody sends SIGCONT), `raise` (FailpointHit), `delay=MS`
(the whole process stands still). The programs of the tiers arm them when they start; in all others they are inert, and
where they are inert a point costs one call of an empty function.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import AgentSystemError, ConfigError

__all__ = ["NAMES", "FailpointHit", "arm", "hit", "hit_soon"]

log = logging.getLogger(__name__)

#: Every point, in the order of a turn; then those of one tier.
NAMES = (
    "lease",  # the lease was just taken, the state is not read yet
    "read",  # entries were fetched, not verified
    "verify",  # verified, not yet seen by the graph
    "graph",  # the step is thought, its commit not begun
    "watch",  # the lease is watched, the transaction is about to be put together
    "before-exec",  # the transaction is about to be sent
    "exec-sent",  # it is sent, its reply not seen
    "exec",  # it has happened, and what was read is acknowledged by it; effects have not
    "renew",  # the lease is about to be renewed
    "spawn",  # worker: an attempt is about to run
    "ran",  # worker: its handler is done, its outcome not told yet
    "takeover",  # coordinator: it holds a lost distributor's lease, whose cell is not emptied yet
    "taken",  # coordinator: the cell is emptied, its tasks not lined up yet
)
_WAYS = "kill, stop, raise or delay=MS"


class FailpointHit(AgentSystemError):
    """A failpoint's `raise`: what the code around it does when something unforeseen goes wrong there."""

    exit_code = 70


@dataclass(slots=True)
class _Armed:
    """One entry of AGENT_FAILPOINTS."""

    left: int  #: hits until it acts
    act: Callable[[], None]
    text: str


_armed: dict[str, list[_Armed]] = {}


def arm(text: str) -> None:
    """Arms the points that `text` names, instead of those before. Raises ConfigError, naming what is wrong."""
    _armed.clear()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, nth, action = (*entry.split(":"), "", "")[:3]
        if name not in NAMES or not nth.isdigit() or int(nth) < 1:
            raise ConfigError(
                f"AGENT_FAILPOINTS: {entry!r} is not NAME:NTH:ACTION with NTH from 1 on. Names: {', '.join(NAMES)}"
            )
        _armed.setdefault(name, []).append(_Armed(int(nth), _action(action, entry), entry))


def hit(name: str) -> None:
    """The process has come to this point. Raises FailpointHit where that is what was armed."""
    if _armed:
        _count(name)


def hit_soon(name: str) -> None:
    """`hit` as soon as the running step of the event loop waits: after it has sent something, before it hears more."""
    if _armed:
        asyncio.get_running_loop().call_soon(_count, name)


def _count(name: str) -> None:
    for armed in _armed.get(name, ()):
        armed.left -= 1
        if armed.left == 0:
            log.warning("failpoint %s", armed.text, extra={"action": "failpoint"})
            armed.act()


def _action(text: str, entry: str) -> Callable[[], None]:
    if text == "kill":
        return lambda: os.kill(os.getpid(), signal.SIGKILL)
    if text == "stop":
        return lambda: os.kill(os.getpid(), signal.SIGSTOP)
    if text == "raise":
        return lambda: _fail(entry)
    wait, _, ms = text.partition("=")
    if wait == "delay" and ms.isdigit():
        return lambda: time.sleep(int(ms) / 1000)
    raise ConfigError(f"AGENT_FAILPOINTS: {entry!r} does not end in an action. Actions: {_WAYS}")


def _fail(entry: str) -> None:
    raise FailpointHit(f"failpoint {entry}")
