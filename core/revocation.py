"""Ids that were revoked since their key was stolen, as they are stored: one line for each key that proves it.

    KEYID distributor:D/worker:W PROOF

The address is written with its parents below the coordinator; the proof takes its parent's key, which only the parent
has, and who holds the root. So whoever may write to Redis can take a line away, and cannot revoke anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.errors import MalformedMessage
from core.roles import Address
from core.signing import Keys

__all__ = ["MOST_BYTES", "Revocation", "lines_of", "revocations_in"]

#: No more than this is ever read: over 300 of the longest lines.
MOST_BYTES = 64 * 1024


class Revocation(NamedTuple):
    """One line: what it says, whether or not that is proven."""

    chain: tuple[Address, ...]  #: from below the coordinator down to who is revoked
    key_id: str
    proof: bytes


def lines_of(chain: Sequence[Address], parent: Keys) -> bytes:
    """What revokes the last of `chain`, which leads down from the coordinator; `parent`: the keys of the one before."""
    path = "/".join(map(str, chain[1:])).encode()
    proofs = parent.revocation(chain[-1]).items()
    return b"".join(b"%b %b %b\n" % (key_id.encode(), path, proof) for key_id, proof in proofs)


def revocations_in(stored: bytes) -> Iterator[Revocation]:
    """Those among `stored` lines that are of the form; whoever wrote the others meant nothing that could be believed.
    One that is cut off is none."""
    for line in stored[:MOST_BYTES].split(b"\n")[:-1]:
        try:
            key_id, path, proof = line.split(b" ")
            yield Revocation(tuple(map(Address.parse, path.split(b"/"))), key_id.decode("ascii"), proof)
        except (ValueError, MalformedMessage):
            continue
