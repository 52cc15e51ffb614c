"""What an agent reports about itself to its parent: in heartbeats, in its greeting and in its goodbye."""

from __future__ import annotations

import os
import socket
from typing import Any

from msgspec import to_builtins

from core.machine.machine_load import machine_load
from core.redis_backend.commit import Committer
from core.roles import Action
from core.runtime.agent_setup import AgentSetup
from core.runtime.behaviour import Behaviour
from core.runtime.greeting import Greeting
from core.runtime.inbox import Inbox
from core.runtime.outbox import Outbox
from core.runtime.watchdog import Watchdog
from core.status_reports import Beat

__all__ = ["SelfReport"]


class SelfReport:
    """Adds to the report of a tier what is the same for all: identity, progress, and how far messages were read."""

    def __init__(
        self,
        setup: AgentSetup,
        behaviour: Behaviour[Any],
        committer: Committer,
        inbox: Inbox,
        outbox: Outbox,
        watchdog: Watchdog,
        greeting: Greeting,
    ) -> None:
        self._behaviour = behaviour
        self._committer = committer
        self._inbox = inbox
        self._outbox = outbox
        self._watchdog = watchdog
        self._greeting = greeting
        self._parent = setup.parent or setup.me
        self._place = {"region": setup.config.region, "weight": setup.config.weight}
        self._virtual = setup.process is not None  # no machine is measured in virtual time
        self.ticks = 0  #: steps of the loop since its start
        self.started_ms = 0  #: server's clock
        self.told = Beat()  #: what its tier has last said of itself

    def payload(self, action: Action, beat: int) -> dict[str, Any]:
        """The content of a message by `action`; `beat` is the number of the last heartbeat, or of this one."""
        window = self._inbox.windows.get(str(self._parent))
        self.told = self._behaviour.beat()
        measured = {} if self._virtual else dict(zip(("cpu_percent", "memory_percent"), machine_load(), strict=True))
        return {
            **measured,
            **self._place,
            **to_builtins(self.told),
            "action": action.value,
            "heard": self._greeting.is_taken,
            "beat": beat,
            "parent_incarnation": window.incarnation if window else 0,
            "received": window.highest if window else 0,
            "sent": self._outbox.sent.get(self._parent, 0),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_ms": self.started_ms,
            "messages": {
                "sent": {action: count for (to, action), count in self._outbox.counts.items() if to == self._parent},
                "received": {action: count for (of, action), count in self._inbox.counts.items() if of == self._parent},
            },
            "ticks": self.ticks,
            "stalled_ms": round(self._watchdog.stalled_s * 1000),
            "conflicts": self._committer.conflicts,
        }
