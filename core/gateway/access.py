"""Who may use a gateway: API keys with roles, and which pages of a browser."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import ConfigError

__all__ = ["ApiKey", "is_loopback", "keys_in", "may", "of_loopback", "whose"]

#: What each role may do: an operator changes what a viewer sees.
ROLES = ("viewer", "operator", "admin")
#: Requests that only read, although their method does not say so.
READING = re.compile(r"/(assistants|threads)/(search|count)")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, known by its SHA-256 alone."""

    name: str
    role: str
    digest: bytes  #: in hexadecimal


def keys_in(text: str) -> tuple[ApiKey, ...]:
    """The keys of a setting, `name:role:sha256`, separated by commas or lines. Raises ConfigError."""
    return tuple(_key(line.strip()) for line in re.split(r"[,\n]", text) if line.strip())


def _key(line: str) -> ApiKey:
    name, role, digest = [*line.split(":"), "", ""][:3]
    if role not in ROLES or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ConfigError(
            f"GATEWAY_KEYS: the entry of {name[:40]!r} is not name:role:hash, with a role of {', '.join(ROLES)}, and"
            " the SHA-256 of the key in 64 hexadecimal digits: `printf %s KEY | sha256sum`."
        )
    return ApiKey(name, role, digest.encode())


def whose(key: str, known: Iterable[ApiKey]) -> ApiKey | None:
    """The entry of a key; None: nobody's. It takes as long for a key that is nearly right."""
    digest = hashlib.sha256(key.encode()).hexdigest().encode()
    found = [entry for entry in known if hmac.compare_digest(entry.digest, digest)]
    return found[0] if found else None


def may(role: str, method: str, path: str) -> bool:
    """Whether a role may make such a request."""
    return role != "viewer" or method in ("GET", "HEAD", "OPTIONS") or READING.fullmatch(path) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host in LOOPBACK


def of_loopback(origin: str) -> bool:
    """Whether a page comes from this machine."""
    return _ORIGIN.fullmatch(origin) is not None
