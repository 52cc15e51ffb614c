"""What became of a message that nobody answers: its reader may have put it aside, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.errors import BadSignature, MalformedMessage, MessageTooLarge, NotPermitted, PeerError, UnknownKey
from core.roles import Address

__all__ = ["LATEST", "rejection_of"]

#: How many of the latest rejected messages are looked through.
LATEST = 200

#: Reasons for which sending the message again cannot help. A stale or a replayed one can be sent anew.
_FINAL: dict[bytes, type[PeerError]] = {
    kind.reason.encode(): kind for kind in (BadSignature, UnknownKey, NotPermitted, MalformedMessage, MessageTooLarge)
}
_OTHER_SECRET = (BadSignature, UnknownKey)


def rejection_of(entries: Iterable[tuple[bytes, list[bytes]]], sender: Address, since_ms: int) -> PeerError | None:
    """The error for which a reader has rejected a message that `sender` sent since then; None: it has not.

    `entries` are those of the reader's quarantine, the latest first; `since_ms` is on the server's clock."""
    for _, fields in entries:
        named: dict[bytes, Any] = dict(zip(fields[::2], fields[1::2], strict=False))
        kind = _FINAL.get(named.get(b"reason", b""))
        arrived_ms = int(named.get(b"entry", b"0").partition(b"-")[0])
        if kind is None or named.get(b"from") != str(sender).encode() or arrived_ms < since_ms:
            continue
        detail = named.get(b"detail", b"").decode(errors="replace")
        cure = (
            "Set the A2A_TOKEN_SECRET that it has, or this client's own A2A_AGENT_KEY" if kind in _OTHER_SECRET else ""
        )
        return kind(f"a message of {sender} was rejected: {detail}{f'. {cure}.' if cure else ''}")
    return None
