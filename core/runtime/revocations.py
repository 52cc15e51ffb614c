"""The children that an agent does not believe any more."""

from __future__ import annotations

import logging

from core.ports import Command
from core.revocation import MAX_BYTES, revocations_in
from core.roles import Address
from core.signing import KeyRing

__all__ = ["Revocations"]

log = logging.getLogger(__name__)


class Revocations:
    """Finds new revocations among the stored ones, and tells the agent's keys. A revocation that was seen once holds as
    long as the keys do, whatever happens to what is stored."""

    def __init__(self, chain: tuple[Address, ...], signing: KeyRing, key: str | None) -> None:
        """`chain` leads from the coordinator down to the agent; `key` is where revocations are stored, None:
        nowhere."""
        self._parents = chain[1:]
        self._signing = signing
        self._stored: object = b""
        #: the commands that read them; `take` takes their reply
        self.look: tuple[Command, ...] = (("GETRANGE", key, 0, MAX_BYTES - 1),) if key else ()

    def take(self, stored: object) -> None:
        """Takes the stored revocations, or an error if they cannot be read."""
        stored = stored if isinstance(stored, bytes) else str(stored)
        if stored == self._stored:
            return
        self._stored = stored
        if isinstance(stored, str):
            log.warning("revocations cannot be read: %s", stored, extra={"action": "revocations_unreadable"})
            return
        for revocation in revocations_in(stored):
            child = revocation.chain[-1]
            if revocation.chain[:-1] != self._parents or self._signing.revokes(child):
                continue
            if self._signing.revoke(child, revocation.key_id, revocation.proof):
                log.warning("%s is revoked: its messages are rejected", child, extra={"action": "child_revoked"})
