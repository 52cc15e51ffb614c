"""Keys that follow the chain of command, signatures, freshness and replay."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import BadSignature, ConfigError, MalformedMessage, ReplayedMessage, StaleMessage, UnknownKey
from core.roles import Address, Role
from core.signing import WINDOW, KeyRing, ReplayWindow, Signed, check_fresh, key_id_of, stream_keys
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, SECRET, WORKER

K, D, W, C = (COORDINATOR,), (COORDINATOR, DISTRIBUTOR), (COORDINATOR, DISTRIBUTOR, WORKER), (COORDINATOR, CLIENT)
OLD_SECRET = b"the root secret before the rotation"
WORKER_2 = Address(Role.WORKER, "worker-2")
DISTRIBUTOR_2 = Address(Role.DISTRIBUTOR, "distributor-2")


def keys(chain: tuple[Address, ...], secret: bytes = SECRET, previous: bytes | None = None) -> KeyRing:
    return KeyRing.from_secret(secret, chain, previous)


# ---- who can speak to whom ----


@pytest.mark.parametrize(("sender", "recipient"), [(K, D), (D, K), (D, W), (W, D), (C, K), (K, C)])
def test_a_parent_and_its_child_understand_each_other(
    sender: tuple[Address, ...], recipient: tuple[Address, ...]
) -> None:
    signed = keys(sender).sign(b"body", recipient[-1])

    keys(recipient).verify(signed)
    assert len(signed.signature) == 64
    assert int(signed.signature, 16)


def test_a_signature_stays_the_same_from_release_to_release() -> None:
    signed = keys(D).sign(b"body", WORKER)

    assert signed.signature == b"0576c7ddd0b53e636d515ffe047c6e4e6ff8019a238dc1338adcfe8d43da581d"


def forged(signed: Signed, **changes: Any) -> Signed:
    return replace(signed, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b"bodY"},
        {"body": b""},
        {"sender": WORKER_2},
        {"sender": Address(Role.CLIENT, "worker-1")},
        {"signature": b"0" * 64},
        {"signature": b""},
        {"signature": b"\xff" * 64},
        {"signature": "ä".encode() * 32},
        {"signature": b"0" * 10_000},
    ],
)
def test_a_message_that_was_changed_in_any_part_is_refused(changes: dict[str, Any]) -> None:
    signed = keys(W).sign(b"body", DISTRIBUTOR)

    with pytest.raises(BadSignature):
        keys(D).verify(forged(signed, **changes))


def test_a_signature_in_capitals_is_not_the_same_signature() -> None:
    signed = keys(W).sign(b"body", DISTRIBUTOR)

    with pytest.raises(BadSignature):
        keys(D).verify(forged(signed, signature=signed.signature.upper()))


def test_a_message_for_one_recipient_is_refused_by_another() -> None:
    signed = keys(D).sign(b"body", WORKER)

    with pytest.raises(BadSignature):
        keys((COORDINATOR, DISTRIBUTOR, WORKER_2)).verify(signed)


def test_what_a_parent_said_cannot_be_turned_round_into_what_its_child_says() -> None:
    down = keys(D).sign(b"body", WORKER)

    with pytest.raises(BadSignature):
        keys(D).verify(forged(down, sender=WORKER))


def test_fields_cannot_be_shifted_into_each_other() -> None:
    """The sender `ab` with the body `c` is not signed as `a` with `bc`, since every field goes with its length."""
    sender = Address(Role.WORKER, "ab")
    signed = keys((COORDINATOR, DISTRIBUTOR, sender)).sign(b"c", DISTRIBUTOR)

    with pytest.raises(BadSignature):
        keys(D).verify(forged(signed, sender=Address(Role.WORKER, "a"), body=b"bc"))


# ---- who knows which keys ----


def test_an_agent_that_has_only_its_own_key_speaks_as_itself() -> None:
    worker = KeyRing.from_agent_key(keys(W).export(), W)

    keys(D).verify(worker.sign(b"body", DISTRIBUTOR))
    worker.verify(keys(D).sign(b"body", WORKER))


@pytest.mark.parametrize("role", [WORKER_2, DISTRIBUTOR, DISTRIBUTOR_2, COORDINATOR, CLIENT], ids=str)
def test_an_agent_that_has_only_its_own_key_can_speak_as_nobody_else(role: Address) -> None:
    stolen = keys(W).export()

    for chain, recipient in [
        ((COORDINATOR, DISTRIBUTOR, role), D),
        ((COORDINATOR, role), K),
        ((DISTRIBUTOR, role), (COORDINATOR, DISTRIBUTOR)),
    ]:
        signed = KeyRing.from_agent_key(stolen, chain).sign(b"body", recipient[-1])
        with pytest.raises(BadSignature):
            keys(recipient).verify(signed)


def test_a_distributor_can_derive_its_workers_keys_from_its_own() -> None:
    distributor = KeyRing.from_agent_key(keys(D).export(), D)

    distributor.verify(keys(W).sign(b"body", DISTRIBUTOR))


def test_no_two_agents_have_the_same_key() -> None:
    chains = [K, D, W, C, (COORDINATOR, DISTRIBUTOR, WORKER_2), (COORDINATOR, DISTRIBUTOR_2), (COORDINATOR, WORKER)]

    assert len({keys(chain).export() for chain in chains}) == len(chains)


def test_keys_are_derived_as_rfc_5869_says() -> None:
    def derive(key: bytes, info: bytes) -> bytes:
        label = b"agent-system/a2a/v1 "
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label + info).derive(key)

    expected = derive(derive(SECRET, b"key coordinator:coordinator-1"), b"key distributor:distributor-1")

    assert keys(D).export() == f"{key_id_of(SECRET)}:{expected.hex()}"


@pytest.mark.parametrize("text", ["", "nonsense", "12345678:", "12345678:00ff", "12345678:" + "g" * 64, ":"])
def test_a_key_that_is_none_is_refused_with_the_cure_and_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="A2A_AGENT_KEY") as caught:
        KeyRing.from_agent_key(text, W)

    assert not text.strip(":") or text not in str(caught.value)


def test_neither_key_nor_secret_shows_in_what_is_printed_of_keys() -> None:
    shown = repr(keys(D)) + repr(keys(D).sign(b"x", WORKER))

    assert SECRET.decode() not in shown
    assert keys(D).export().partition(":")[2] not in shown


# ---- rotation ----


def test_during_a_rotation_messages_under_both_secrets_are_accepted_and_own_ones_signed_with_the_new() -> None:
    rotating = keys(D, SECRET, previous=OLD_SECRET)

    rotating.verify(keys(W, OLD_SECRET).sign(b"body", DISTRIBUTOR))
    rotating.verify(keys(W).sign(b"body", DISTRIBUTOR))
    keys(W).verify(rotating.sign(b"body", WORKER))


def test_after_a_rotation_the_old_secret_is_refused_before_any_work_on_it() -> None:
    signed = keys(W, OLD_SECRET).sign(b"body", DISTRIBUTOR)

    with pytest.raises(UnknownKey):
        keys(D).verify(signed)


def test_a_refusal_names_the_sender_or_the_beginning_of_the_key_id() -> None:
    signed = keys(W).sign(b"body", DISTRIBUTOR)

    with pytest.raises(BadSignature, match=r"^from worker:worker-1$"):
        keys(D).verify(forged(signed, body=b"bodY"))
    with pytest.raises(UnknownKey, match=r"^key id '0123456789abcdef'$"):
        keys(D).verify(forged(signed, key_id="0123456789abcdef0"))


def test_programs_of_one_client_each_have_a_key_of_their_own_from_the_clients_key() -> None:
    client_key = keys(C).export()
    one, other = (Address(CLIENT.role, f"{CLIENT.name}~{session}") for session in ("9f3c", "9f3d"))
    signed = KeyRing.from_agent_key(client_key, (COORDINATOR, one)).sign(b"body", COORDINATOR)

    keys(K).verify(signed)
    assert (
        len({client_key, *(KeyRing.from_agent_key(client_key, (COORDINATOR, who)).export() for who in (one, other))})
        == 3
    )
    with pytest.raises(BadSignature):
        keys(K).verify(forged(signed, sender=other))


def test_each_agent_stream_has_keys_of_its_own_the_current_one_first() -> None:
    both = stream_keys("orders", SECRET, OLD_SECRET)

    assert [*both] == [key_id_of(SECRET), key_id_of(OLD_SECRET)]
    assert stream_keys("orders", SECRET) == {key_id_of(SECRET): both[key_id_of(SECRET)]}
    assert len({*both.values(), *stream_keys("others", SECRET, OLD_SECRET).values(), SECRET}) == 5


def test_an_exported_key_takes_both_secrets_along() -> None:
    worker = KeyRing.from_agent_key(keys(W, SECRET, previous=OLD_SECRET).export(), W)

    worker.verify(keys(D, OLD_SECRET).sign(b"body", WORKER))
    assert worker.sign(b"body", DISTRIBUTOR).key_id == key_id_of(SECRET)


def test_a_key_id_tells_nothing_of_the_secret_but_which_one_it_is() -> None:
    assert key_id_of(SECRET) == key_id_of(SECRET) != key_id_of(OLD_SECRET)
    assert len(key_id_of(SECRET)) == 8


def test_forged_senders_do_not_fill_the_memory() -> None:
    distributor = keys(D)
    signed = keys(W).sign(b"body", DISTRIBUTOR)
    for number in range(10_100):
        with pytest.raises(BadSignature):
            distributor.verify(forged(signed, sender=Address(Role.WORKER, f"w{number}")))

    assert len(distributor._links) <= 10_000
    distributor.verify(signed)


def test_forged_senders_push_out_no_key_of_a_real_one() -> None:
    distributor = keys(D)
    signed = keys(W).sign(b"body", DISTRIBUTOR)
    distributor.verify(signed)
    known = dict(distributor._links)
    assert [link[1:] for link in known] == [(WORKER, DISTRIBUTOR)]
    assert all(known.values())
    for number in range(100):
        with pytest.raises(BadSignature):
            distributor.verify(forged(signed, sender=Address(Role.WORKER, f"w{number}")))

    assert distributor._links == known


# ---- the form on the wire ----


@pytest.mark.parametrize("body", [b"{}", b"\n\n", bytes(range(256))])
def test_a_signed_message_comes_back_from_its_fields_and_from_its_packed_form(body: bytes) -> None:
    signed = keys(W).sign(body, DISTRIBUTOR)

    assert Signed.from_fields(signed.fields()) == signed
    assert Signed.unpack(signed.pack()) == signed


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"from", b"worker:worker-1"],
        [b"from", b"nobody", b"kid", b"k", b"sig", b"s", b"body", b"b"],
        [b"from", b"worker:../x", b"kid", b"k", b"sig", b"s", b"body", b"b"],
        [b"from", b"king:w", b"kid", b"k", b"sig", b"s", b"body", b"b"],
        [b"from", b"worker:\xff", b"kid", b"k", b"sig", b"s", b"body", b"b"],
        [b"from", b"worker:w", b"kid", b"\xff", b"sig", b"s", b"body", b"b"],
        [b"from", b"worker:w", b"kid", b"k", b"sig", b"s", b"body"],
    ],
)
def test_an_entry_that_is_no_signed_message_is_malformed(fields: list[bytes]) -> None:
    with pytest.raises(MalformedMessage):
        Signed.from_fields(fields)


@pytest.mark.parametrize("packed", [b"", b"a\nb\nc", json.dumps({}).encode()])
def test_a_hash_field_that_is_no_signed_message_is_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Signed.unpack(packed)


# ---- freshness and replay ----


@pytest.mark.parametrize("distance_ms", [-600_000, -1, 0, 1, 600_000])
def test_a_message_within_the_window_is_fresh(distance_ms: int) -> None:
    check_fresh(1_000_000_000, 1_000_000_000 + distance_ms, 600_000)


@pytest.mark.parametrize("distance_ms", [-600_001, 600_001])
def test_a_message_signed_long_before_or_after_it_arrived_is_stale(distance_ms: int) -> None:
    with pytest.raises(StaleMessage):
        check_fresh(1_000_000_000, 1_000_000_000 + distance_ms, 600_000)


def window_of(*sequence: int, incarnation: int = 1) -> ReplayWindow:
    window = ReplayWindow()
    for number in sequence:
        window = window.take(incarnation, number, 0)
    return window


def test_every_number_is_taken_once_in_whatever_order_they_come() -> None:
    window = window_of(1, 5, 3, 2, 4)

    for number in (1, 2, 3, 4, 5):
        with pytest.raises(ReplayedMessage):
            window.take(1, number, 0)
    assert window.take(1, 6, 0).highest == 6


def test_a_gap_in_the_numbers_can_be_filled_later() -> None:
    assert window_of(1, 10).take(1, 7, 0).highest == 10


@pytest.mark.parametrize("behind", [WINDOW, WINDOW + 1, 10 * WINDOW])
def test_a_number_too_old_to_tell_is_refused(behind: int) -> None:
    highest = 20 * WINDOW
    with pytest.raises(ReplayedMessage):
        window_of(highest).take(1, highest - behind, 0)


def test_the_oldest_number_within_the_window_can_still_be_told() -> None:
    highest = 5 * WINDOW
    window = window_of(highest).take(1, highest - WINDOW + 1, 0)

    with pytest.raises(ReplayedMessage):
        window.take(1, highest - WINDOW + 1, 0)


def test_a_leap_beyond_the_window_forgets_only_what_is_too_old_to_be_taken() -> None:
    window = window_of(1, 2, 1_000_000)

    with pytest.raises(ReplayedMessage):
        window.take(1, 2, 0)
    assert window.taken.bit_length() <= WINDOW


def test_a_new_incarnation_counts_anew_and_the_one_before_is_refused() -> None:
    window = window_of(1, 2, 3).take(2, 1, 0)

    assert (window.incarnation, window.highest) == (2, 1)
    with pytest.raises(StaleMessage):
        window.take(1, 4, 0)


def test_a_window_comes_back_from_its_text() -> None:
    window = window_of(1, 5, 3).take(1, 9, 77)

    assert ReplayWindow.from_text(window.to_text()) == window
    assert window.last_ms == 77
