"""Ids that were revoked because their key was stolen, as they are stored: one line for each key that proves it.

    KEYID distributor:D/worker:W PROOF

The address is written with its parents below the coordinator. The proof needs the key of its parent, which only the
parent and the holder of the root have. So write access to Redis can remove a line, but cannot revoke anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.errors import MalformedMessage
from core.roles import Address
from core.signing import KeyRing

__all__ = ["MAX_BYTES", "Revocation", "lines_of", "revocations_in"]

#: At most this much is read, in bytes: over 300 of the longest lines.
MAX_BYTES = 64 * 1024


class Revocation(NamedTuple):
    """One line, whether or not it is proven."""

    chain: tuple[Address, ...]  #: from below the coordinator down to the revoked agent
    key_id: str
    proof: bytes


def lines_of(chain: Sequence[Address], parent: KeyRing) -> bytes:
    """The line that revokes the last of `chain`, which leads down from the coordinator. `parent` has its parent's
    keys."""
    path = "/".join(map(str, chain[1:])).encode()
    proofs = parent.revocation(chain[-1]).items()
    return b"".join(b"%b %b %b\n" % (key_id.encode(), path, proof) for key_id, proof in proofs)


def revocations_in(stored: bytes) -> Iterator[Revocation]:
    """The well-formed lines among `stored`; the others could not be believed anyway. A line that is cut off is not
    well-formed."""
    for line in stored[:MAX_BYTES].split(b"\n")[:-1]:
        try:
            key_id, path, proof = line.split(b" ")
            yield Revocation(tuple(map(Address.parse, path.split(b"/"))), key_id.decode("ascii"), proof)
        except (ValueError, MalformedMessage):
            continue
