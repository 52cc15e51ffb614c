"""A client finds out why nobody answers."""

from __future__ import annotations

import pytest

from core.client.rejection import rejection_of
from core.roles import Address, Role

ME = Address.of(Role.CLIENT, "me")


def entry(reason: str = "unknown_key", sender: str = "client:me", arrived: str = "500-0") -> tuple[bytes, list[bytes]]:
    fields = {"reason": reason, "detail": "no such key", "entry": arrived, "from": sender}
    return b"900-0", [part.encode() for pair in fields.items() for part in pair]


@pytest.mark.parametrize(
    ("rejected", "expected"),
    [
        (entry(), "unknown_key"),
        (entry(reason="bad_signature"), "bad_signature"),
        (entry(reason="not_permitted"), "not_permitted"),
        (entry(reason="stale"), None),  # sent again it is fresh
        (entry(reason="replayed"), None),
        (entry(sender="client:somebody"), "unknown_key"),  # it is the entry that was posted, whatever it says
        (entry(arrived="499-9"), None),  # in this client's name, and not by it
        ((b"900-0", [b"reason", b"unknown_key"]), None),
    ],
)
def test_only_a_rejection_of_this_clients_own_message_for_good_ends_its_waiting(
    rejected: tuple[bytes, list[bytes]], expected: str | None
) -> None:
    error = rejection_of([entry(arrived="498-0"), rejected], ME, {b"500-0"})

    assert (error and error.reason) == expected


def test_the_cure_for_another_secret_is_named() -> None:
    error = rejection_of([entry()], ME, {b"500-0"})

    assert error is not None
    assert "A2A_TOKEN_SECRET" in str(error)
    assert error.exit_code == 77
