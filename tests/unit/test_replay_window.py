"""The replay window value by value, and what is said of a message that is refused before anybody reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import ConfigError, MalformedMessage, PeerError, ReplayedMessage, StaleMessage
from core.roles import Address, Role
from core.signing import AHEAD_MS, WINDOW, KeyRing, ReplayWindow, Signed, check_fresh, check_plausible
from tests.builders import COORDINATOR, DISTRIBUTOR, SECRET, WORKER

HELD = ReplayWindow(incarnation=5, highest=10, taken=0b101, last_ms=70)
FULL = (1 << WINDOW) - 1


@pytest.mark.parametrize(
    ("window", "taking", "after"),
    [
        (ReplayWindow(), (5, 3, 70), ReplayWindow(5, 3, 1, 70)),
        (HELD, (5, 11, 60), ReplayWindow(5, 11, 0b1011, 60)),
        (HELD, (5, 13, 80), ReplayWindow(5, 13, 0b101001, 80)),
        (HELD, (5, 9, 60), ReplayWindow(5, 10, 0b111, 70)),
        (HELD, (5, 9, 80), ReplayWindow(5, 10, 0b111, 80)),
        (HELD, (6, 2, 80), ReplayWindow(6, 2, 1, 80)),
        (ReplayWindow(5, WINDOW, FULL, 0), (5, WINDOW + 1, 1), ReplayWindow(5, WINDOW + 1, FULL, 1)),
        (ReplayWindow(5, WINDOW, 1, 0), (5, 1, 1), ReplayWindow(5, WINDOW, 1 | 1 << WINDOW - 1, 1)),
        (ReplayWindow(5, 1, 1, 0), (5, WINDOW, 1), ReplayWindow(5, WINDOW, 1 | 1 << WINDOW - 1, 1)),
        (ReplayWindow(5, 1, 1, 0), (5, WINDOW + 1, 1), ReplayWindow(5, WINDOW + 1, 1, 1)),
    ],
)
def test_a_number_that_is_taken_leaves_this_window(window: ReplayWindow, taking: Any, after: ReplayWindow) -> None:
    assert window.take(*taking) == after


#: What is refused, as what, and in which words.
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "taken before": (lambda: HELD.take(5, 8, 0), ReplayedMessage, "sequence number 8"),
    "too old to tell": (lambda: ReplayWindow(5, WINDOW, 1).take(5, 0, 0), ReplayedMessage, "sequence number 0"),
    "an incarnation before": (lambda: HELD.take(4, 99, 0), StaleMessage, "from an incarnation that has been replaced"),
    "signed long ago": (lambda: check_fresh(1_000, 4_601, 3_600), StaleMessage, "signed 4 s before it arrived"),
    "signed ahead": (lambda: check_fresh(4_601, 1_000, 3_600), StaleMessage, "signed -4 s before it arrived"),
    "a start to come": (
        lambda: check_plausible(AHEAD_MS + 8, 0, 7), MalformedMessage,
        "an incarnation that lies more than a day ahead of the server's clock",
    ),
    "no entry": (
        lambda: Signed.from_fields([b"from"]), MalformedMessage, "an entry needs the fields from, kid, sig and body",
    ),
    "no packed message": (lambda: Signed.unpack(b"a\nb\nc"), MalformedMessage, "a packed message has four parts"),
    "no key": (
        lambda: KeyRing.from_agent_key("12345678:" + "00" * 31, (COORDINATOR,)), ConfigError,
        "A2A_AGENT_KEY is not of the form KEYID:64-HEX-DIGITS, as `agents key` prints it.",
    ),
    "a key with more before it": (
        lambda: KeyRing.from_agent_key("12345678:x:" + "00" * 32, (COORDINATOR,)), ConfigError,
        "A2A_AGENT_KEY is not of the form KEYID:64-HEX-DIGITS, as `agents key` prints it.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_words(name: str) -> None:
    refuse, kind, words = REFUSED[name]

    with pytest.raises(kind) as refused:
        refuse()

    told = refused.value
    assert words in (str(told), *([told.args[0]] if isinstance(told, PeerError) and told.args else []))


@pytest.mark.parametrize(("incarnation", "known"), [(AHEAD_MS + 7, 0), (AHEAD_MS + 8, AHEAD_MS + 8), (1, 99)])
def test_a_start_is_believed_up_to_a_day_ahead_or_if_it_is_known(incarnation: int, known: int) -> None:
    check_plausible(incarnation, known, 7)


def test_an_agent_at_the_top_speaks_with_a_key_of_its_own() -> None:
    top, child = (COORDINATOR,), (COORDINATOR, DISTRIBUTOR)
    own = KeyRing.from_agent_key(KeyRing.from_secret(SECRET, top).export(), top)

    KeyRing.from_secret(SECRET, child).verify(own.sign(b"body", DISTRIBUTOR))


def test_who_is_revoked_is_named_by_who_holds_the_key_of_its_parent_only() -> None:
    chain = (COORDINATOR, DISTRIBUTOR)
    parent, stranger = KeyRing.from_secret(SECRET, chain), KeyRing.from_secret(b"another secret of that length", chain)
    [(key_id, proof)] = parent.revocation(WORKER).items()
    [(_, other_proof)] = stranger.revocation(WORKER).items()

    assert [parent.revoke(WORKER, key_id, other_proof), parent.revoke(WORKER, "00000000", proof)] == [False, False]
    assert not parent.revokes(WORKER)
    assert parent.revoke(WORKER, key_id, proof) is True
    assert parent.revokes(WORKER)
    assert parent.revokes(Address(Role.WORKER, "worker-1~s"))
    assert not parent.revokes(DISTRIBUTOR)
