"""What the log says of rejected messages: a line for each reason now and then, however many there are.

Whoever can write to Redis decides how many there are, and what they say; so a line has nothing of their text but an
address, which has the form of one. What a message said is kept in the quarantine.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

from core.errors import MalformedMessage
from core.roles import Address

__all__ = ["LINE_EVERY_S", "RejectionLog"]

log = logging.getLogger(__name__)

#: Between two lines about the same reason.
LINE_EVERY_S = 10.0


class RejectionLog:
    """Of one reader, about one kind of message."""

    def __init__(self, what: str, action: str) -> None:
        self._what = what
        self._action = action
        self._due_s: dict[str, float] = {}  # by reason
        self._unsaid: Counter[str] = Counter()

    def note(self, reason: str, sender: bytes, entry_id: bytes = b"") -> None:
        """One was rejected. `sender` is whom it names."""
        now_s = time.monotonic()
        if now_s < self._due_s.get(reason, 0.0):
            self._unsaid[reason] += 1
            return
        self._due_s[reason] = now_s + LINE_EVERY_S
        unsaid = self._unsaid.pop(reason, 0)
        try:
            named = str(Address.parse(sender))
        except MalformedMessage:
            named = "nobody"
        entry = entry_id.decode() if entry_id.replace(b"-", b"").isdigit() else ""
        fields = {"reason": reason, "sender": named, "entry": entry, "unsaid": unsaid}
        log.warning(
            "%s rejected (%s), which names %s as its sender%s",
            self._what,
            reason,
            named,
            f"; so were {unsaid} since the last such line" if unsaid else "",
            extra={"action": self._action, **fields},
        )
