"""The keys with which workers sign what runs stream, so that who can merely write to Redis cannot forge it. No I/O.

    client's key ─▶ of all its runs ─▶ of one run: RunKey ─▶ of one attempt: AttemptKey

The owner of a task derives them with no more than its own key, as do the agents above it. A coordinator hands the key
of a run on with the task, and a distributor that of the attempt to its worker, which thus can sign for no other one. On
the way, and where a distributor stores it, a key is wrapped (AES key wrap, RFC 3394) for the one agent that is meant to
have it, since messages and records are signed and not encrypted.

A chunk is signed with a MAC (BLAKE2b with a key, RFC 7693) over its number and its bytes. That of an attempt's chunks
grows, so that one which is appended again is known.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

__all__ = ["MAX_WRAPPED", "AttemptKey", "RunKey", "unwrapped", "wrapped"]

#: Length of the text of wrapped keys: two, each the id, a colon and 40 bytes as hex digits, and a comma.
MAX_WRAPPED = 2 * (8 + 1 + 80) + 1
_WRAPPED = re.compile(r"([0-9a-f]{8}):([0-9a-f]{80})")
_KEY_BYTES, _MAC_BYTES = 32, 16


class AttemptKey(NamedTuple):
    """The key with which the chunks of one attempt are signed."""

    key_id: str  #: of the root secret that it follows from
    secret: bytes

    def mac(self, number: int, chunks: bytes) -> bytes:
        """The signature of chunks, 32 hex digits."""
        mac = hashlib.blake2b(b"%d " % number, key=self.secret, digest_size=_MAC_BYTES, person=b"chunks")
        mac.update(chunks)
        return mac.hexdigest().encode()

    def has_signed(self, number: int, chunks: bytes, mac: bytes) -> bool:
        """Whether `mac` is the signature of these chunks."""
        return hmac.compare_digest(mac, self.mac(number, chunks))


class RunKey(NamedTuple):
    """The key of all attempts at one task."""

    key_id: str
    secret: bytes

    @classmethod
    def of(cls, key_id: str, runs_secret: bytes, task_id: str) -> RunKey:
        """That of a task, given the key of all runs of its owner."""
        return cls(key_id, _follows(runs_secret, b"run", task_id))

    def of_attempt(self, attempt: int) -> AttemptKey:
        return AttemptKey(self.key_id, _follows(self.secret, b"attempt", str(attempt)))


def _follows(secret: bytes, kind: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=secret, digest_size=_KEY_BYTES, person=kind).digest()


def wrapped(key: RunKey | AttemptKey, wrapping_secret: bytes) -> str:
    """A key as text that only who has `wrapping_secret` can read: `KEYID:80-HEX-DIGITS`."""
    return f"{key.key_id}:{aes_key_wrap(wrapping_secret, key.secret).hex()}"


def unwrapped(text: str, wrapping_secret_of: Callable[[str], bytes | None]) -> Iterator[tuple[str, bytes]]:
    """The keys in a text of `wrapped` keys with commas between them, each with its id. What cannot be read is left out.
    `wrapping_secret_of`: the secret by its id; None: it is not known."""
    for part in text.split(","):
        if (found := _WRAPPED.fullmatch(part)) and (wrapping_secret := wrapping_secret_of(found[1])):
            with suppress(InvalidUnwrap):
                yield found[1], aes_key_unwrap(wrapping_secret, bytes.fromhex(found[2]))
