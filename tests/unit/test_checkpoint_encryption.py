"""Stored values are bound to their place, and readable with the keys that are given only."""

from __future__ import annotations

import pytest

from core.checkpoints.encryption import Encryption, Plain
from core.errors import CheckpointUnreadable, ConfigError

OLD, NEW = bytes(32), bytes(range(32))


def test_a_value_is_read_at_its_place_and_does_not_show_itself() -> None:
    encryption = Encryption({"a": OLD}, "a")
    sealed = encryption.seal(b"secret", "thread\0name")
    assert b"secret" not in sealed
    assert encryption.seal(b"secret", "thread\0name") != sealed
    assert encryption.unseal(sealed, "thread\0name") == b"secret"


@pytest.mark.parametrize("place", ["other\0name", "thread\0other", "thread\0"])
def test_a_value_that_was_put_in_the_place_of_another_is_refused(place: str) -> None:
    encryption = Encryption({"a": OLD}, "a")
    with pytest.raises(CheckpointUnreadable, match="was not encrypted for this place"):
        encryption.unseal(encryption.seal(b"x", "thread\0name"), place)


@pytest.mark.parametrize("at", range(2, 32))
def test_a_changed_byte_is_noticed(at: int) -> None:
    encryption = Encryption({"a": OLD}, "a")
    sealed = bytearray(encryption.seal(b"x", "p"))
    if at < len(sealed):
        sealed[at] ^= 1
        with pytest.raises(CheckpointUnreadable):
            encryption.unseal(bytes(sealed), "p")


def test_a_key_is_changed_in_three_steps_and_nothing_becomes_unreadable() -> None:
    before, both = Encryption({"old": OLD}, "old"), Encryption({"old": OLD, "new": NEW}, "old")
    after, alone = Encryption({"old": OLD, "new": NEW}, "new"), Encryption({"new": NEW}, "new")
    for writer, readers in (
        (before, (before, both, after)),
        (both, (before, both, after)),
        (after, (both, after, alone)),
    ):
        assert {reader.unseal(writer.seal(b"x", "p"), "p") for reader in readers} == {b"x"}
    with pytest.raises(CheckpointUnreadable, match=r"the key 'old', which is not among \['new'\]"):
        alone.unseal(before.seal(b"x", "p"), "p")


def test_another_key_of_the_same_id_is_named_as_the_cause() -> None:
    with pytest.raises(CheckpointUnreadable, match="this key 'a'"):
        Encryption({"a": NEW}, "a").unseal(Encryption({"a": OLD}, "a").seal(b"x", "p"), "p")


def test_what_is_not_encrypted_is_read_only_where_that_is_said() -> None:
    plain = Plain().seal(b"x", "p")
    with pytest.raises(CheckpointUnreadable, match="accept_plain"):
        Encryption({"a": OLD}, "a").unseal(plain, "p")
    assert Encryption({"a": OLD}, "a", accept_plain=True).unseal(plain, "p") == b"x"


def test_without_encryption_an_encrypted_value_is_named() -> None:
    with pytest.raises(CheckpointUnreadable, match="Encryption that has its key"):
        Plain().unseal(Encryption({"a": OLD}, "a").seal(b"x", "p"), "p")


@pytest.mark.parametrize(
    ("keys", "current", "said"),
    [
        ({"a": OLD}, "b", "no key with the current id 'b'"),
        ({"a": b"short"}, "a", "5 bytes"),
        ({"": OLD}, "", "an id of"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(keys: dict[str, bytes], current: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Encryption(keys, current)
