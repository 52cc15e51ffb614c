"""Keys that follow the chain of command, signatures over the exact bytes, freshness and replay.

Every agent's key is derived (HKDF-SHA256, RFC 5869) from its parent's key and its own address, so a parent can derive a
child's key and never the reverse. A link between a parent and a child has two keys, one for each direction, derived
from the child's key. An agent with only its own key can speak as itself, to its parent and its own children, and as
nobody else. The signature (HMAC-SHA256, RFC 2104) is over length-prefixed fields: a label, the key id, sender,
recipient, body.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import (
    BadSignature,
    ConfigError,
    MalformedMessage,
    ReplayedMessage,
    RevokedKey,
    StaleMessage,
    UnknownKey,
)
from core.roles import Address
from core.run_keys import AttemptKey, RunKey, unwrapped, wrapped
from core.sealing import Seals
from core.stored import pairs

__all__ = ["KeyRing", "ReplayWindow", "Signed", "check_fresh", "check_plausible", "key_id_of", "stream_keys"]

_LABEL = b"agent-system/a2a/v1"
_RECORDS = "records"
#: Number of derived keys that are remembered.
MAX_REMEMBERED = 10_000
#: How far the number of a start may be ahead of the server's clock, in ms.
AHEAD_MS = 86_400_000
#: How far a sequence number may be below the highest one, and still be known as taken or not.
WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Signed:
    """A message as it travels: four fields of a stream entry."""

    sender: Address
    key_id: str
    signature: bytes  #: 64 hex digits
    body: bytes

    def fields(self) -> list[bytes]:
        """Names and values, alternately, as arguments of XADD."""
        return [
            b"from", str(self.sender).encode(),
            b"kid", self.key_id.encode(),
            b"sig", self.signature,
            b"body", self.body,
        ]  # fmt: skip

    @classmethod
    def from_fields(cls, fields: Sequence[bytes]) -> Self:
        """The message in the fields of a stream entry. Raises MalformedMessage when a field is missing."""
        named = pairs(fields)
        try:
            return cls(
                Address.parse(named[b"from"]),
                named[b"kid"].decode("ascii"),
                named[b"sig"],
                named[b"body"],
            )
        except (KeyError, UnicodeDecodeError):
            raise MalformedMessage("an entry needs the fields from, kid, sig and body") from None

    def pack(self) -> bytes:
        """The four fields packed into the value of a hash field."""
        return b"\n".join(self.fields()[1::2])

    @staticmethod
    def body_in(packed: bytes) -> bytes:
        """The body of the message in the value of a hash field; nothing if none is there. Nothing else is looked at."""
        parts = packed.split(b"\n", 3)
        return parts[3] if len(parts) == 4 else b""

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The message in the value of a hash field. Raises MalformedMessage."""
        parts = packed.split(b"\n", 3)
        if len(parts) != 4:
            raise MalformedMessage("a packed message has four parts")
        return cls.from_fields([b"from", parts[0], b"kid", parts[1], b"sig", parts[2], b"body", parts[3]])


class KeyRing:
    """The keys with which one agent signs and verifies.

    `chain` leads from the coordinator down to this agent. With a previous secret, messages signed under it are
    accepted too; this agent always signs with the current one.
    """

    def __init__(self, chain: Sequence[Address], named: Mapping[str, bytes]) -> None:
        """`named`: by its id, the key of the name of the last of `chain`; the first one is current."""
        self._me = chain[-1]
        self._name = Address(self._me.role, self._me.name)
        self._parent = chain[-2] if len(chain) > 1 else None
        self._named = dict(named)
        self._own = {key_id: _of_session(key, self._me) for key_id, key in named.items()}
        self._current = next(iter(self._own))
        self._links: dict[tuple[str, Address, Address], bytes] = {}
        self._others: dict[tuple[str, Address, str], bytes] = {}  # derived for a purpose, from the key of an address
        self._revoked: set[Address] = set()

    @classmethod
    def from_secret(cls, secret: bytes, chain: Sequence[Address], previous: bytes | None = None) -> Self:
        """The keys of the last of `chain`, derived from the root secret."""
        return cls(
            chain,
            {key_id_of(root): _walk(root, chain) for root in (secret, previous) if root},
        )

    @classmethod
    def from_agent_key(cls, text: str, chain: Sequence[Address]) -> Self:
        """The keys of an agent with only its own key, in the format of `export`. Raises ConfigError."""
        try:
            own = {kid: bytes.fromhex(key) for kid, _, key in (part.partition(":") for part in text.split(","))}
        except ValueError:
            own = {}
        if not own or any(len(key) != 32 for key in own.values()):
            raise ConfigError("A2A_AGENT_KEY is not of the form KEYID:64-HEX-DIGITS, as `agents key` prints it.")
        return cls(chain, own)

    def export(self) -> str:
        """This agent's own key as text. From this secret only the keys of its own subtree can be derived."""
        return ",".join(f"{kid}:{key.hex()}" for kid, key in self._own.items())

    @property
    def seals(self) -> Seals:
        """The seals for records that this agent stores."""
        return Seals({key_id: _derive(own, _RECORDS) for key_id, own in self._own.items()})

    def seals_of(self, child: Address) -> Seals:
        """The seals for records that a child stores."""
        return Seals({key_id: _derive(_child_key(own, child), _RECORDS) for key_id, own in self._own.items()})

    def sign(self, body: bytes, recipient: Address) -> Signed:
        """`body`, signed by this agent for `recipient`, which is its parent or one of its children."""
        key = self._link(self._current, self._me, recipient)
        return Signed(
            self._me,
            self._current,
            _mac(key, self._current, self._me, recipient, body),
            body,
        )

    def verify(self, signed: Signed) -> None:
        """Verifies a signature. Raises UnknownKey for an unknown key, before any other work; BadSignature when bytes,
        sender, recipient or key differ from what was signed; RevokedKey for any message in the name of a revoked id.
        """
        if self._revoked and self.revokes(signed.sender):
            raise RevokedKey(f"{signed.sender} is revoked")
        if signed.key_id not in self._own:
            raise UnknownKey(f"key id {signed.key_id[:16]!r}")
        link = (signed.key_id, signed.sender, self._me)
        key = self._links.get(link) or self._derived(*link)
        expected = _mac(key, signed.key_id, signed.sender, self._me, signed.body)
        if len(signed.signature) != len(expected) or not hmac.compare_digest(signed.signature, expected):
            raise BadSignature(f"from {signed.sender}")
        self._keep(link, key)  # only now, since forged messages must not displace the keys of real senders

    def revocation(self, child: Address) -> dict[str, bytes]:
        """By key id, the proof that a holder of this agent's key revokes `child`."""
        return {key_id: _revocation(key, child) for key_id, key in self._own.items()}

    def revoke(self, child: Address, key_id: str, proof: bytes) -> bool:
        """Rejects all messages in the name of `child` from now on. Returns whether the proof was valid; if it was not,
        nothing changes."""
        key = self._own.get(key_id)
        if key is None or not hmac.compare_digest(_revocation(key, child), proof):
            return False
        self._revoked.add(child)
        return True

    def revokes(self, child: Address) -> bool:
        """Whether `child` is revoked. All sessions of a revoked id are."""
        return Address(child.role, child.name) in self._revoked

    def run_keys(self, task_id: str, owner: Address | None = None) -> list[RunKey]:
        """The keys of a task, the current one first. `owner`: the child whose task it is; None: it is this agent's."""
        return [RunKey.of(key_id, self._for(key_id, owner or self._name, "runs"), task_id) for key_id in self._own]

    def wrapped(self, keys: Iterable[RunKey | AttemptKey], recipient: Address) -> str:
        """Keys as text that one child can read, and the agents above it."""
        return ",".join(wrapped(key, self._for(key.key_id, recipient, "wrapping")) for key in keys)

    def unwrapped(self, text: str) -> Iterable[tuple[str, bytes]]:
        """The keys that the parent has wrapped for this agent, each with its id. What it cannot read is left out."""
        return unwrapped(text, lambda key_id: self._for(key_id, self._me, "wrapping") if key_id in self._own else None)

    def _for(self, key_id: str, address: Address, purpose: str) -> bytes:
        """A key that follows from that of this agent, of its name, or of a child."""
        known = (key_id, address, purpose)
        if (key := self._others.get(known)) is None:
            own = self._own[key_id] if address == self._me else self._named[key_id]
            key = _derive(own if address in (self._me, self._name) else _child_key(own, address), purpose)
            if len(self._others) >= MAX_REMEMBERED:
                self._others.clear()
            self._others[known] = key
        return key

    def _link(self, key_id: str, sender: Address, recipient: Address) -> bytes:
        link = (key_id, sender, recipient)
        key = self._links.get(link) or self._derived(*link)
        self._keep(link, key)
        return key

    def _derived(self, key_id: str, sender: Address, recipient: Address) -> bytes:
        other = recipient if sender == self._me else sender
        own = self._own[key_id]
        child_key = own if other == self._parent else _child_key(own, other)
        return _derive(child_key, f"link {sender} {recipient}")

    def _keep(self, link: tuple[str, Address, Address], key: bytes) -> None:
        if len(self._links) >= MAX_REMEMBERED and link not in self._links:  # clients come and go
            self._links.clear()
        self._links[link] = key


def key_id_of(secret: bytes) -> str:
    """The public name of a root secret, 8 hex digits, which reveals nothing about the secret."""
    return _derive(secret, "key id").hex()[:8]


def stream_keys(stream: str, secret: bytes, previous: bytes | None = None) -> dict[str, bytes]:
    """By key id, the keys of an agent stream, which all have who know the root secret; the first one is current."""
    return {key_id_of(root): _derive(root, f"stream {stream}") for root in (secret, previous) if root}


def _walk(root: bytes, chain: Sequence[Address]) -> bytes:
    """The key of the name of the last of `chain`."""
    key = root
    for address in chain:
        key = _child_key(key, Address(address.role, address.name))
    return key


def _child_key(parent_key: bytes, child: Address) -> bytes:
    return _of_session(_derive(parent_key, f"key {child.role.value}:{child.name}"), child)


def _of_session(key: bytes, address: Address) -> bytes:
    """The key of an address, given the key of its name, since programs of one client do not share a link."""
    return _derive(key, f"session {address.session}") if address.session else key


def _derive(key: bytes, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_LABEL + b" " + info.encode()).derive(key)


def _mac(key: bytes, key_id: str, sender: Address, recipient: Address, body: bytes) -> bytes:
    parts = (
        _LABEL,
        key_id.encode(),
        str(sender).encode(),
        str(recipient).encode(),
        body,
    )
    text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(key, text, hashlib.sha256).hex().encode()


def _revocation(key: bytes, child: Address) -> bytes:
    return hmac.digest(_derive(key, "revocations"), str(child).encode(), hashlib.sha256).hex().encode()


def check_fresh(signed_ms: int, arrived_ms: int, window_ms: int) -> None:
    """Raises StaleMessage when a message was signed too long before, or after, it arrived in its stream.

    Both times are the server's. The arrival is the time of the entry id, but never later than now. So a backlog of
    hours does not make a message stale, but posting it again does.
    """
    if abs(arrived_ms - signed_ms) > window_ms:
        raise StaleMessage(f"signed {(arrived_ms - signed_ms) / 1000:.0f} s before it arrived")


def check_plausible(incarnation: int, known: int, now_ms: int) -> None:
    """Raises MalformedMessage when a start cannot have that number.

    The number is the server's clock at the start, or one more than that of the previous start, so it lies ahead only if
    the clock was set back. If any number were accepted, the holder of a stolen key could use one that no later start of
    the key's owner exceeds, so that the owner would be ignored forever."""
    if incarnation > known and incarnation > now_ms + AHEAD_MS:
        raise MalformedMessage("an incarnation that lies more than a day ahead of the server's clock")


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """Which sequence numbers of one sender have been taken: the highest, and a bit for each of the 1,024 below.

    This is the anti-replay window of IPsec (RFC 4303, section 3.4.3; RFC 6479), with an incarnation in front, since a
    sender counts from 1 again after each start."""

    incarnation: int = 0
    highest: int = 0
    taken: int = 0  #: bit n: highest - n was taken
    last_ms: int = 0  #: when the last one was signed, ms: a sender silent for the freshness window is forgotten

    def take(self, incarnation: int, sequence: int, signed_ms: int) -> ReplayWindow:
        """The window after taking `sequence`. Raises ReplayedMessage for a number that was taken before or is too old
        to tell; StaleMessage for an incarnation that has been replaced."""
        if incarnation < self.incarnation:
            raise StaleMessage("from an incarnation that has been replaced")
        if incarnation > self.incarnation:
            return ReplayWindow(incarnation, sequence, 1, signed_ms)
        ahead = sequence - self.highest
        if ahead > 0:
            taken = (self.taken << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            return ReplayWindow(incarnation, sequence, taken, signed_ms)
        if ahead <= -WINDOW or self.taken >> -ahead & 1:
            raise ReplayedMessage(f"sequence number {sequence}")
        return ReplayWindow(
            incarnation,
            self.highest,
            self.taken | 1 << -ahead,
            max(self.last_ms, signed_ms),
        )

    def to_text(self) -> bytes:
        return b"%d:%d:%x:%d" % (
            self.incarnation,
            self.highest,
            self.taken,
            self.last_ms,
        )

    @classmethod
    def from_text(cls, text: bytes) -> ReplayWindow:
        incarnation, highest, taken, last_ms = text.split(b":")
        return cls(int(incarnation), int(highest), int(taken, 16), int(last_ms))
