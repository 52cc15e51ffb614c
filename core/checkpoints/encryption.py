"""Encryption of what is stored of a thread: AES-GCM, with keys that can be changed.

Each value is bound to its thread and its name, so that whoever may write to Redis cannot put one in the place of
another. Names stay readable: thread, namespace, checkpoint, task and channel, and the ids of runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import CheckpointUnreadable, ConfigError

__all__ = ["Encryption", "Plain", "Sealing"]

_PLAIN, _SEALED = b"\0", b"\1"
_NONCE_BYTES = 12


class Plain:
    """Values are stored as they are."""

    def seal(self, value: bytes, place: str) -> bytes:
        return _PLAIN + value

    def unseal(self, stored: bytes, place: str) -> bytes:
        """Raises CheckpointUnreadable when the value is encrypted."""
        if stored[:1] == _PLAIN:
            return stored[1:]
        raise CheckpointUnreadable(f"{_shown(place)} is encrypted: give the saver an Encryption that has its key.")


class Encryption:
    """Encrypts with one key, and reads what was encrypted with any of them."""

    def __init__(self, keys: Mapping[str, bytes], current: str, *, accept_plain: bool = False) -> None:
        """`keys`: by their ids, each of 16, 24 or 32 random bytes; `current`: the id of the one that encrypts. To
        change it, first give every process the new key as well, then make it current, and drop the old one when nothing
        is left that it has encrypted. `accept_plain`: whether values are read that are not encrypted, as they are
        before encryption is switched on; whoever may write to Redis can then forge them.

        Raises ConfigError."""
        if current not in keys:
            raise ConfigError(f"Encryption: there is no key with the current id {current!r}; there are {sorted(keys)}.")
        for key_id, key in keys.items():
            if len(key) not in (16, 24, 32) or not 0 < len(key_id.encode()) < 256:
                raise ConfigError(
                    f"Encryption: key {key_id[:50]!r} has {len(key)} bytes; a key has 16, 24 or 32, for instance of"
                    " secrets.token_bytes(32), and an id of 1 to 255 bytes."
                )
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        self._current = current.encode()
        self._accept_plain = accept_plain

    def seal(self, value: bytes, place: str) -> bytes:
        """The value encrypted; it can only be read at `place`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, value, place.encode())
        return b"".join((_SEALED, bytes([len(self._current)]), self._current, nonce, sealed))

    def unseal(self, stored: bytes, place: str) -> bytes:
        """Raises CheckpointUnreadable: the key is not there, is another one of that id, or the value was not encrypted
        for this place."""
        if stored[:1] == _PLAIN:
            if self._accept_plain:
                return stored[1:]
            raise CheckpointUnreadable(
                f"{_shown(place)} is not encrypted, and may be forged. If it was stored before encryption was switched"
                " on, read it with Encryption(..., accept_plain=True)."
            )
        nonce_at = 2 + stored[1]
        key_id, nonce = stored[2:nonce_at], stored[nonce_at : nonce_at + _NONCE_BYTES]
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise CheckpointUnreadable(
                f"{_shown(place)} is encrypted with the key {key_id.decode(errors='replace')!r}, which is not among"
                f" {[each.decode() for each in self._ciphers]}: give the Encryption that key as well."
            )
        try:
            return cipher.decrypt(nonce, stored[nonce_at + _NONCE_BYTES :], place.encode())
        except InvalidTag:
            raise CheckpointUnreadable(
                f"{_shown(place)} was not encrypted for this place with this key {key_id.decode()!r}: the key has other"
                " bytes here, or somebody has changed what is stored."
            ) from None


Sealing = Plain | Encryption


def _shown(place: str) -> str:
    return f"a stored value ({place.replace(chr(0), ' ').strip()[:200]!r})"
