"""Failpoints: named points in the code of an agent at which a test makes it die, stop, fail or wait.

    AGENT_FAILPOINTS="before-exec:3:kill,read:1:delay=500"       NAME:NTH:ACTION, separated by commas

In this example the process kills itself before it sends a transaction for the third time, and after its first read it
waits for half a second. Actions: `kill` (SIGKILL), `stop` (SIGSTOP, until somebody sends SIGCONT), `raise`
(FailpointHit), `delay=MS` (the whole process sleeps). The programs of the tiers arm failpoints when they start. In all
other programs they are inert, and each costs one call of an empty function.
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

#: All failpoints, in the order of a turn, followed by those of single tiers.
NAMES = (
    "lease",  # the lease has been taken, and the state is not read yet
    "read",  # entries have been fetched, and are not verified yet
    "verify",  # entries have been verified, and the graph has not run yet
    "graph",  # the step is decided, and its commit has not begun yet
    "watch",  # the lease is watched, and the transaction is about to be assembled
    "before-exec",  # the transaction is about to be sent
    "exec-sent",  # the transaction has been sent, and its reply has not come yet
    "exec",  # the transaction was executed, which acknowledges what was read; the effects are still to come
    "renew",  # the lease is about to be renewed
    "spawn",  # worker: an attempt is about to run
    "ran",  # worker: the handler has ended, and its outcome is not reported yet
    "takeover",  # coordinator: it holds the lease of a lost distributor, whose cell is not emptied yet
    "taken",  # coordinator: the cell has been emptied, and its tasks are not queued again yet
)
_WAYS = "kill, stop, raise or delay=MS"


class FailpointHit(AgentSystemError):
    """Raised by a failpoint with the action `raise`, in place of an unforeseen error."""

    exit_code = 70


@dataclass(slots=True)
class _Armed:
    """One entry of AGENT_FAILPOINTS."""

    left: int  #: number of hits until it acts
    act: Callable[[], None]
    text: str


_armed: dict[str, list[_Armed]] = {}


def arm(text: str) -> None:
    """Arms the failpoints in `text`, and disarms all others. Raises ConfigError when `text` is malformed."""
    _armed.clear()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, nth, action = (*entry.split(":"), "", "")[:3]
        if name not in NAMES or not nth.isdigit() or int(nth) < 1:
            raise ConfigError(
                f"AGENT_FAILPOINTS: {entry!r} is not NAME:NTH:ACTION with NTH from 1 on. Names: {', '.join(NAMES)}"
            )
        _armed.setdefault(name, []).append(_Armed(int(nth), _action(action, entry), entry))


def hit(name: str) -> None:
    """Performs the action that is armed for this failpoint, if it is due. Raises FailpointHit for the action
    `raise`."""
    if _armed:
        _count(name)


def hit_soon(name: str) -> None:
    """Calls `hit` as soon as the running task yields to the event loop: after it has sent something, and before it gets
    a reply."""
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
