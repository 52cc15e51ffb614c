"""Seals on what is stored: who may only write to Redis can make nothing that is believed. No I/O.

A record is JSON that ends in `}`; sealed, it has one field more at its end, so whoever merely parses it reads on as
before. The seal is a MAC (BLAKE2b with a key, RFC 7693, at a third of the cost of HMAC-SHA256) over what the record is,
its name, and its bytes, with a key that follows from its writer's own. Whoever knows the writer's key can check it, and
so can the agents above.

What it does not prevent: a record can be deleted, or replaced by an older one of the same name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum

from core.errors import ForgedRecord

__all__ = ["Sealed", "Seals", "bare"]

_START, _END, _DIGEST_BYTES = b',"mac":"', b'"}', 16
_LENGTH = len(_START) + 2 * _DIGEST_BYTES + len(_END)


class Sealed(StrEnum):
    """What a record is. A seal of one kind says nothing about another."""

    TASK = "task"  #: a coordinator's record of a task
    SUBMISSION = "submission"  #: a message that tasks were submitted with, as it was signed
    CELL = "cell"  #: a distributor's record of a task that it has


class Seals:
    """Makes and checks the seals of one agent. `keys`: the current one, and those that count as well."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def seal(self, kind: Sealed, name: str, record: bytes) -> bytes:
        """The record with its seal."""
        return b"".join((record[:-1], _START, _mac(self._keys[0], kind, name, record), _END))

    def opened(self, kind: Sealed, name: str, sealed: bytes) -> bytes:
        """The record without its seal. Raises ForgedRecord when it is not the one that was sealed under that name."""
        return self._opened(kind, name, sealed)[0]

    def opened_anew(self, kind: Sealed, name: str, sealed: bytes) -> bytes | None:
        """The record sealed with the current key, when its seal was made with another one; None: it is well as it is.
        Raises ForgedRecord."""
        record, key = self._opened(kind, name, sealed)
        return None if key == self._keys[0] else self.seal(kind, name, record)

    @property
    def rotating(self) -> bool:
        """Whether there may be seals of a key that is about to go."""
        return len(self._keys) > 1

    def _opened(self, kind: Sealed, name: str, sealed: bytes) -> tuple[bytes, bytes]:
        record = bare(sealed)
        if record is not sealed:
            found = sealed[len(_START) - _LENGTH : -len(_END)]
            for key in self._keys:
                if hmac.compare_digest(found, _mac(key, kind, name, record)):
                    return record, key
        raise ForgedRecord(f"the {kind.value} record {name[:200]!r} is not what its writer has sealed")


def bare(sealed: bytes) -> bytes:
    """The record without its seal, whether or not that is right; itself where it has none."""
    if sealed[-_LENGTH : len(_START) - _LENGTH] == _START and sealed.endswith(_END):
        return sealed[:-_LENGTH] + b"}"
    return sealed


def _mac(key: bytes, kind: Sealed, name: str, record: bytes) -> bytes:
    # A name has no zero byte, so it cannot run over into the record.
    text = b"%b\0%b" % (name.encode(), record)
    return hashlib.blake2b(text, key=key, digest_size=_DIGEST_BYTES, person=kind.encode()).hexdigest().encode()
