"""What a process knows about the lease under which it acts."""

from __future__ import annotations

import os
import socket
from typing import Any

import orjson

from core.errors import LeaseLost
from core.machine.process_identity import this_process
from core.redis_backend.clock import monotonic_s
from core.roles import Address

__all__ = ["RENEWED_ALONG_SHARE", "RENEWED_SHARE", "HeldLease"]

#: A holder stops acting this long before its lease can end.
MARGIN_SHARE = 0.1
#: A lease is renewed on its own after a third of its time, and along with any other command after a quarter, since on a
#: slow link a separate renewal may arrive too late.
RENEWED_SHARE, RENEWED_ALONG_SHARE = 1 / 3, 0.25


class HeldLease:
    """One agent's lease as this process holds it, and the version of the state that it guards."""

    def __init__(self, me: Address, lease_ms: int, *, after_epoch: int, takeover: bool) -> None:
        self.me = me
        self.takeover = takeover  #: held for a moment, by the agent's parent
        self._host = socket.gethostname()
        self._renewed_s = 0.0  # monotonic, from before the last renewal was sent
        self._commits = 0
        self.process = this_process()
        self.name = f"{os.getpid()}@{self._host}"  #: of this process, for people
        self.lease_ms = lease_ms
        self.acquired_ms = 0
        self.incarnation = 0  #: the epoch of this process's start
        self.epoch = 0  #: the fence; 0: the lease is not held
        self.highest_epoch = after_epoch  #: the highest epoch that this process has held, or tried to take
        self.written_epoch = 0  #: the epoch that the header is known to carry
        self.version = 0

    @property
    def may_act(self) -> bool:
        """Whether the lease certainly still holds, by this process's own monotonic clock."""
        held_s = self.lease_ms / 1000 * (1 - MARGIN_SHARE)
        return self.epoch > 0 and monotonic_s() < self._renewed_s + held_s

    @property
    def renewal_due(self) -> bool:
        """Whether a third of the lease time has passed since it was renewed, by a commit or otherwise."""
        return self.unrenewed_share > RENEWED_SHARE

    @property
    def unrenewed_share(self) -> float:
        """The share of the lease time that has passed since it was renewed."""
        return (monotonic_s() - self._renewed_s) * 1000 / self.lease_ms

    def reach(self, epoch: int) -> None:
        """Notes the fence under which this process acts from now on, or tries to."""
        self.epoch = self.highest_epoch = epoch

    def acquired(self) -> None:
        """Notes that the lease was taken. After an attempt that failed, another process may have had it with a higher
        epoch, so only a success makes an incarnation."""
        self.incarnation = self.epoch

    def renewed(self, sent_s: float) -> None:
        """Notes that a transaction sent at `sent_s` (monotonic) has renewed it."""
        self._renewed_s = sent_s
        self.written_epoch = self.epoch
        self._commits += 1

    def lose(self) -> None:
        """Notes that this process holds it no more."""
        self.epoch = 0

    def follow(self, stored: int) -> None:
        """Takes over the stored version. Raises LeaseLost unless it is the known one or the next, which a commit whose
        reply was lost may have written."""
        if stored not in (self.version, self.version + 1):
            raise LeaseLost(f"{self.me}: version {stored} is stored, {self.version} was expected")
        self.version = stored

    def is_in(self, stored: Any) -> bool:
        """Whether `stored`, the reply to a look at the lease, is this lease."""
        try:
            lease = orjson.loads(stored)
            return bool(lease["epoch"] == self.epoch and lease["process"] == self.process)
        except (ValueError, TypeError, KeyError):
            return False  # there is none, or the value is no lease

    def to_json(self, now_ms: int) -> bytes:
        """The stored form, a `core.langgraph_state.Lease`."""
        return orjson.dumps(
            {
                "owner": str(self.me),
                "process": self.process,
                "host": self._host,
                "incarnation": self.incarnation or self.epoch,
                "epoch": self.epoch,
                "acquired_at": self.acquired_ms / 1000,
                "expires_at": (now_ms + self.lease_ms) / 1000,
                "commits": self._commits,
                "lease_ms": self.lease_ms,
                "takeover": self.takeover,
            }
        )
