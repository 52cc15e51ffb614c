"""Log lines about rejected messages: occasionally one for each reason and one for each sender, however many there are.

Whoever can write to Redis decides how many there are and what they say. So a line has nothing of their text except a
well-formed address. The content of a message is kept in the quarantine.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

from core.errors import BadSignature, MalformedMessage, RevokedKey, UnknownKey
from core.roles import Address

__all__ = ["LINE_EVERY_S", "RejectionLog"]

log = logging.getLogger(__name__)

#: Seconds between two lines about the same reason, and about the same reason and sender.
LINE_EVERY_S, SAME_EVERY_S = 10.0, 3600.0
#: Number of senders that are remembered; beyond it, those of the oldest lines are dropped.
MAX_REMEMBERED = 1000
_ANOTHER_SECRET = (
    "its secret differs: set the same A2A_TOKEN_SECRET there, or the A2A_AGENT_KEY that `agents key` prints for it;"
    " `agents dlq purge --quarantined` then clears the rejected messages"
)
#: What to do, by reason.
CURES = {
    BadSignature.reason: _ANOTHER_SECRET,
    UnknownKey.reason: _ANOTHER_SECRET,
    RevokedKey.reason: "somebody uses a key that was revoked; see docs/security.md",
}


class RejectionLog:
    """The lines of one reader about one kind of message."""

    def __init__(self, what: str, action: str) -> None:
        self._what = what
        self._action = action
        self._due_s: dict[str | tuple[str, str], float] = {}  # by reason, and by reason and sender
        self._unsaid: Counter[str] = Counter()

    def note(self, reason: str, sender: bytes, entry_id: bytes = b"") -> None:
        """Notes a rejected message. `sender` is the address in it, which may be forged."""
        now_s, named = time.monotonic(), _named(sender)
        if now_s < max(self._due_s.get(reason, 0.0), self._due_s.get((reason, named), 0.0)):
            self._unsaid[reason] += 1
            return
        self._said(reason, named, now_s)
        unsaid, cure = self._unsaid.pop(reason, 0), CURES.get(reason)
        entry = entry_id.decode() if entry_id.replace(b"-", b"").isdigit() else ""
        fields = {"reason": reason, "sender": named, "entry": entry, "unsaid": unsaid}
        log.warning(
            "%s rejected (%s), which names %s as its sender%s%s",
            self._what,
            reason,
            named,
            f"; so were {unsaid} since the last such line" if unsaid else "",
            f". Cure, if it is one of yours: {cure}" if cure else "",
            extra={"action": self._action, **fields},
        )

    def _said(self, reason: str, named: str, now_s: float) -> None:
        self._due_s.pop((reason, named), None)
        self._due_s |= {reason: now_s + LINE_EVERY_S, (reason, named): now_s + SAME_EVERY_S}
        if len(self._due_s) > MAX_REMEMBERED:
            del self._due_s[next(iter(self._due_s))]


def _named(sender: bytes) -> str:
    try:
        return str(Address.parse(sender))
    except MalformedMessage:
        return "nobody"
