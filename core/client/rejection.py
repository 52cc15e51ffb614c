"""Why a message gets no answer: its reader may have quarantined it, with the reason."""

from __future__ import annotations

from collections.abc import Container, Iterable

from core.errors import (
    BadSignature,
    MalformedMessage,
    MessageTooLarge,
    NotPermitted,
    PeerError,
    RevokedKey,
    UnknownKey,
)
from core.roles import Address
from core.stored import pairs

__all__ = ["LATEST", "rejection_of"]

#: Number of recently rejected messages that are searched.
LATEST = 200

#: Reasons for which sending the message again cannot help. A stale or replayed message can be sent again.
_FINAL: dict[bytes, type[PeerError]] = {
    kind.reason.encode(): kind
    for kind in (BadSignature, UnknownKey, RevokedKey, NotPermitted, MalformedMessage, MessageTooLarge)
}
_CURES: dict[type[PeerError], str] = dict.fromkeys(
    (BadSignature, UnknownKey), " Set the A2A_TOKEN_SECRET that it has, or this client's own A2A_AGENT_KEY."
) | {RevokedKey: " Take another id, with a key of its own."}


def rejection_of(
    entries: Iterable[tuple[bytes, list[bytes]]], sender: Address, posted: Container[bytes]
) -> PeerError | None:
    """The error for which a reader has rejected a message of `sender`, who has `posted` those; None: it has not.

    `entries` are those of the reader's quarantine, the latest first. Only their ids count, not their content, since
    anybody may have put a message that names this sender into the inbox."""
    for _, fields in entries:
        named = pairs(fields)
        kind = _FINAL.get(named.get(b"reason", b""))
        if kind is None or named.get(b"entry") not in posted:
            continue
        detail = named.get(b"detail", b"").decode(errors="replace")
        cure = _CURES.get(kind, "")
        return kind(f"a message of {sender} was rejected: {detail}{f'.{cure}' if cure else ''}")
    return None
