"""Finds the heartbeats of its children that an agent has not heard yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.a2a_messaging import A2AMessage
from core.errors import NotPermitted, PeerError, ReplayedMessage
from core.roles import Action, Address, check_permitted
from core.runtime.rejection_log import RejectionLog
from core.signing import KeyRing, Signed, check_plausible
from core.status_reports import status_report
from core.step import Received
from core.stored import pairs

__all__ = ["HeardHeartbeats"]

#: Number of children whose last heartbeat is remembered; beyond it the least recently heard is dropped.
MAX_REMEMBERED = 10_000


class HeardHeartbeats:
    """Compares the stored heartbeats with those of the last look, and verifies the new ones."""

    def __init__(self, me: Address, signing: KeyRing, rejected: Counter[str]) -> None:
        self._me = me
        self._signing = signing
        self._rejected = rejected
        self._log = RejectionLog("heartbeat", "beat_rejected")
        self._seen: dict[bytes, bytes] = {}  # by agent id
        self._latest: dict[bytes, tuple[int, int]] = {}  # by agent id: incarnation and number of the last good one

    def new(self, stored: Sequence[bytes], now_ms: int) -> list[Received]:
        """The valid heartbeats among those that have changed; invalid ones are counted. `stored` is a reply to HGETALL.
        `now_ms` is the server's clock, or the number of this agent's own start if that is ahead."""
        children = pairs(stored)
        before, self._seen = self._seen, children
        return [
            beat
            for name, packed in children.items()
            if before.get(name) != packed and (beat := self._verified(name, packed, now_ms))
        ]

    def _verified(self, name: bytes, packed: bytes, now_ms: int) -> Received | None:
        try:
            signed = Signed.unpack(packed)
            message = A2AMessage.opened(signed, self._signing)
            check_permitted(signed.sender.role, self._me.role, message.action)
            if message.action != Action.BEAT or signed.sender.agent_id.encode() != name:
                raise NotPermitted("this is nobody's heartbeat")
            status = status_report(signed.sender.role, message.action, message.payload)
            check_plausible(message.metadata.incarnation, self._latest.get(name, (0, 0))[0], now_ms)
            self._note(name, (message.metadata.incarnation, message.metadata.sequence_number))
        except PeerError as error:
            self._log.note(error.reason, packed.partition(b"\n")[0])
            self._rejected[error.reason] += 1
            return None
        return Received(signed.sender, message, b"", None, status)

    def _note(self, name: bytes, number: tuple[int, int]) -> None:
        """Raises ReplayedMessage for an old heartbeat, which would revive an agent that has left."""
        latest = self._latest.pop(name, (0, 0))
        self._latest[name] = max(latest, number)
        if len(self._latest) > MAX_REMEMBERED:
            del self._latest[next(iter(self._latest))]
        if number <= latest:
            raise ReplayedMessage(f"heartbeat {number[1]}")
