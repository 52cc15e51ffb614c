"""Which revocations a parent believes, and what it believes no more."""

from __future__ import annotations

import pytest

from core.errors import RevokedKey
from core.revocation import MAX_BYTES, lines_of, revocations_in
from core.roles import Address, Role
from core.runtime.revocations import Revocations
from core.signing import KeyRing
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, SECRET, WORKER

K, D, W, C = (COORDINATOR,), (COORDINATOR, DISTRIBUTOR), (COORDINATOR, DISTRIBUTOR, WORKER), (COORDINATOR, CLIENT)
OTHER_SECRET = b"another root secret, or the one before"
WORKER_2 = Address(Role.WORKER, "worker-2")


def keys(chain: tuple[Address, ...], secret: bytes = SECRET, previous: bytes | None = None) -> KeyRing:
    return KeyRing.from_secret(secret, chain, previous)


@pytest.mark.parametrize(("parent", "child"), [(K, C), (K, D), (D, W)])
def test_a_parent_believes_nothing_of_a_child_that_is_revoked(
    parent: tuple[Address, ...], child: tuple[Address, ...]
) -> None:
    own = keys(parent)
    said = keys(child).sign(b"body", parent[-1])
    own.verify(said)

    Revocations(parent, own, "revoked").take(lines_of(child, keys(parent)))

    with pytest.raises(RevokedKey, match=f"^{child[-1]} is revoked$"):
        own.verify(said)


def test_it_goes_on_believing_its_other_children() -> None:
    own = keys(D)
    Revocations(D, own, "revoked").take(lines_of(W, keys(D)))

    own.verify(keys((*D, WORKER_2)).sign(b"body", DISTRIBUTOR))


def test_no_session_of_a_client_that_is_revoked_is_believed() -> None:
    own = keys(K)
    Revocations(K, own, "revoked").take(lines_of(C, keys(K)))

    assert own.revokes(Address(Role.CLIENT, f"{CLIENT.agent_id}~4f2a"))
    assert not own.revokes(Address(Role.CLIENT, f"{CLIENT.agent_id}2"))
    assert not own.revokes(Address(Role.DISTRIBUTOR, CLIENT.agent_id))


GOOD = lines_of(W, keys(D))


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        GOOD[:-1],
        GOOD.replace(b" ", b"  "),
        GOOD.replace(b"worker:worker-1", b"worker:worker-2"),
        GOOD.replace(b"distributor:distributor-1", b"distributor:distributor-2"),
        GOOD.replace(b"distributor:distributor-1/", b""),
        GOOD[:-65] + b"0" * 64 + b"\n",
        GOOD[:8] + GOOD[8:].upper(),
        lines_of(W, keys(D, OTHER_SECRET)),
        lines_of(W, keys(W)),
        lines_of(W, keys(K)),
        b"\xff" * 1000 + b"\n",
        b"x" * MAX_BYTES + GOOD,
    ],
)
def test_a_line_that_its_parent_has_not_proven_revokes_nobody(stored: bytes) -> None:
    own = keys(D)
    Revocations(D, own, "revoked").take(stored)

    own.verify(keys(W).sign(b"body", DISTRIBUTOR))
    own.verify(keys((*D, WORKER_2)).sign(b"body", DISTRIBUTOR))


def test_among_rubbish_the_good_line_is_found() -> None:
    rubbish = b"\n\n a b\nc d e f\n\xff \xff \xff\n"

    assert [revocation.chain[-1] for revocation in revocations_in(rubbish + GOOD + rubbish)] == [WORKER]


def test_what_was_seen_once_holds_though_somebody_takes_it_away() -> None:
    own = keys(D)
    revocations = Revocations(D, own, "revoked")
    revocations.take(GOOD)
    revocations.take(b"")

    assert own.revokes(WORKER)


@pytest.mark.parametrize(("at", "previous"), [(SECRET, None), (OTHER_SECRET, None), (OTHER_SECRET, SECRET)])
def test_during_a_rotation_parents_with_either_secret_believe_it(at: bytes, previous: bytes | None) -> None:
    lines = lines_of(W, keys(D, OTHER_SECRET, SECRET))
    own = keys(D, at, previous)
    revocations = Revocations(D, own, "revoked")
    revocations.take(lines)

    assert own.revokes(WORKER)


def test_after_a_rotation_the_id_is_believed_again_with_its_new_key() -> None:
    own = keys(D, OTHER_SECRET)
    Revocations(D, own, "revoked").take(GOOD)

    own.verify(keys(W, OTHER_SECRET).sign(b"body", DISTRIBUTOR))
