"""A seal holds a record to its writer, its kind, its name and its bytes."""

from __future__ import annotations

import orjson
import pytest

from core.errors import ForgedRecord, PeerError, UnknownKey
from core.roles import Address, Role
from core.sealing import Sealed, Seals, bare
from core.signing import KeyRing
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET

RECORD = b'{"task_id":"t","result":{"mac":"x"}}'
OLD, NEW = {"0123abcd": b"o" * 32}, {"4567ef01": b"n" * 32}


def test_a_sealed_record_is_json_as_before_and_comes_out_as_it_was() -> None:
    sealed = Seals(NEW).seal(Sealed.TASK, "t", RECORD)

    assert orjson.loads(sealed) == {**orjson.loads(RECORD), "mac": orjson.loads(sealed)["mac"]}
    assert bare(sealed) == RECORD
    assert Seals(NEW).opened(Sealed.TASK, "t", sealed) == RECORD


@pytest.mark.parametrize("byte", range(len(Seals(NEW).seal(Sealed.TASK, "t", RECORD))))
def test_no_byte_of_it_can_be_changed(byte: int) -> None:
    sealed = bytearray(Seals(NEW).seal(Sealed.TASK, "t", RECORD))
    sealed[byte] ^= 1
    with pytest.raises(PeerError):
        Seals(NEW).opened(Sealed.TASK, "t", bytes(sealed))


@pytest.mark.parametrize(
    "forged", [b"", b"}", b"{}", RECORD, b"null", RECORD[:-1] + b',"mac":"4567ef01:' + b"0" * 32 + b'"}']
)
def test_what_has_no_seal_or_a_made_up_one_is_forged(forged: bytes) -> None:
    with pytest.raises(ForgedRecord):
        Seals(NEW).opened(Sealed.TASK, "t", forged)


def test_a_seal_says_nothing_about_another_name_kind_or_writer() -> None:
    sealed = Seals(NEW).seal(Sealed.TASK, "t", RECORD)
    for seals, kind, name in [
        (Seals(NEW), Sealed.TASK, "u"), (Seals(NEW), Sealed.CELL, "t"), (Seals(OLD), Sealed.TASK, "t"),
    ]:  # fmt: skip
        with pytest.raises(PeerError):
            seals.opened(kind, name, sealed)


def test_of_a_seal_whose_key_is_not_here_nobody_can_say_whether_it_is_right() -> None:
    with pytest.raises(UnknownKey):
        Seals(OLD).opened(Sealed.TASK, "t", Seals(NEW).seal(Sealed.TASK, "t", RECORD))


def test_a_seal_of_the_key_before_counts_and_is_made_anew() -> None:
    both = Seals(NEW | OLD)
    sealed = Seals(OLD).seal(Sealed.TASK, "t", RECORD)

    assert both.opened(Sealed.TASK, "t", sealed) == RECORD
    assert both.opened_anew(Sealed.TASK, "t", sealed) == Seals(NEW).seal(Sealed.TASK, "t", RECORD)
    assert both.opened_anew(Sealed.TASK, "t", both.seal(Sealed.TASK, "t", RECORD)) is None
    assert (both.rotating, Seals(NEW).rotating) == (True, False)


def test_a_parent_can_check_what_its_child_has_sealed_and_nobody_beside_it() -> None:
    above = KeyRing.from_secret(SECRET, (COORDINATOR,))
    mine = KeyRing.from_agent_key(
        KeyRing.from_secret(SECRET, (COORDINATOR, DISTRIBUTOR)).export(), (COORDINATOR, DISTRIBUTOR)
    )
    sealed = mine.seals.seal(Sealed.CELL, "t", RECORD)

    assert above.seals_of(DISTRIBUTOR).opened(Sealed.CELL, "t", sealed) == RECORD
    for other in (above.seals, above.seals_of(Address(Role.DISTRIBUTOR, "distributor-2"))):
        with pytest.raises(ForgedRecord):
            other.opened(Sealed.CELL, "t", sealed)


@pytest.mark.parametrize(
    ("sealed", "words"),
    [
        (RECORD, "the task record 't' has no seal"),
        (Seals(NEW).seal(Sealed.TASK, "u", RECORD), "the task record 't' is not what its writer has sealed"),
        (Seals(OLD).seal(Sealed.TASK, "t", RECORD), "the task record 't' is sealed with an unknown key"),
    ],
)
def test_what_is_not_believed_is_named_with_the_reason(sealed: bytes, words: str) -> None:
    with pytest.raises(PeerError) as refused:
        Seals(NEW).opened(Sealed.TASK, "t", sealed)

    assert refused.value.args == (words,)
