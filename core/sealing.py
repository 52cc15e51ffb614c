"""Seals on stored records, so that write access to Redis alone is not enough to forge a record. No I/O.

A record is JSON that ends in `}`. A sealed record has one more field at its end, which readers that merely parse it
ignore. The seal is a MAC (BLAKE2b with a key, RFC 7693, at a third of the cost of HMAC-SHA256) over the record's kind,
name and bytes, with a key that is derived from its writer's key. The writer and the agents above it can verify it.

A seal does not prevent anybody from deleting a record, or replacing it with an older one of the same name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from enum import StrEnum

from core.errors import ForgedRecord, UnknownKey

__all__ = ["Sealed", "Seals", "bare"]

_START, _END = b',"mac":"', b'"}'
_KEY_ID, _DIGEST_BYTES = 8, 16
#: A colon stands between the key's id and the MAC.
_LENGTH = len(_START) + _KEY_ID + 1 + 2 * _DIGEST_BYTES + len(_END)


class Sealed(StrEnum):
    """The kind of a record. A seal is only valid for its kind."""

    TASK = "task"  #: a coordinator's record of a task
    SUBMISSION = "submission"  #: a message that tasks were submitted with, as it was signed
    SCHEDULE = "schedule"  #: a coordinator's record of a schedule
    QUOTA = "quota"  #: what a tenant or a type of tasks may have of a fleet
    CELL = "cell"  #: a distributor's record of a task that it has
    EVENTS = "events"  #: the events that an agent tells with a commit


class Seals:
    """Makes and verifies the seals of one agent. `keys`: by id, the current key first, then others that are
    accepted."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        # The key is hashed once here, since that is half of the cost of a seal.
        self._macs = {
            key_id.encode(): {
                kind: hashlib.blake2b(key=key, digest_size=_DIGEST_BYTES, person=kind.encode()) for kind in Sealed
            }
            for key_id, key in keys.items()
        }
        self._current = next(iter(self._macs))
        self._sealing = self._macs[self._current]
        self._mark = _START + self._current + b":"

    def seal(self, kind: Sealed, name: str, record: bytes) -> bytes:
        """The record with its seal."""
        return record[:-1] + self._mark + _mac(self._sealing[kind], name, record) + _END

    def opened(self, kind: Sealed, name: str, sealed: bytes) -> bytes:
        """The record without its seal. Raises ForgedRecord when it is not the one that was sealed under this name;
        UnknownKey: it is sealed with an unknown key, so its origin is unknown, and it must be kept."""
        record = bare(sealed)
        if record is sealed:
            raise ForgedRecord(f"the {kind.value} record {name[:200]!r} has no seal")
        key_id, _, mac = sealed[len(_START) - _LENGTH : -len(_END)].partition(b":")
        if key_id not in self._macs:
            raise UnknownKey(f"the {kind.value} record {name[:200]!r} is sealed with an unknown key")
        if not hmac.compare_digest(mac, _mac(self._macs[key_id][kind], name, record)):
            raise ForgedRecord(f"the {kind.value} record {name[:200]!r} is not what its writer has sealed")
        return record

    def opened_anew(self, kind: Sealed, name: str, sealed: bytes) -> bytes | None:
        """The record, sealed with the current key, if its seal was made with another one; otherwise None. Raises as
        `opened` does."""
        record = self.opened(kind, name, sealed)
        is_current = sealed[len(_START) - _LENGTH :].startswith(self._current)
        return None if is_current else self.seal(kind, name, record)

    @property
    def rotating(self) -> bool:
        """Whether the key is being replaced, so that there may be seals with another one."""
        return len(self._macs) > 1


def _mac(keyed: hashlib.blake2b, name: str, record: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(name.encode() + b"\0" + record)  # a name has no zero byte, so the parts are unambiguous
    return mac.hexdigest().encode()


def bare(sealed: bytes) -> bytes:
    """The record without its seal, which is not checked; the record itself if it has none."""
    if sealed[-_LENGTH : len(_START) - _LENGTH] == _START and sealed.endswith(_END):
        return sealed[:-_LENGTH] + b"}"
    return sealed
