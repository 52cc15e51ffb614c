"""How a parent finds the tasks that never arrived: the table, row by row, and when each of its events has happened."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import product

import pytest

from core.reconciliation import TRANSITIONS, Held, Probe, ProbeEvent, ProbeState
from core.status_reports import Beat

S, E = ProbeState, ProbeEvent
IN_FLIGHT = {"there": 1, "lost": 2}
PARENT, PATIENCE_MS = 7, 1000
#: What follows, as it is meant: the state after each event. A dash: the event means nothing there.
MEANT = """
                IDLE    ASKED   READ    LOOKED     CONFIRMED
    ASKED       ASKED   -       -       -          -
    HAS_READ    -       READ    READ    -          -
    LOOKED      -       -       LOOKED  LOOKED     -
    HEARD_OUT   -       -       -       CONFIRMED  -
    JUDGED      -       -       -       -          IDLE
    EXPIRED     -       IDLE    IDLE    IDLE       -
    RESTARTED   -       IDLE    IDLE    IDLE       -
"""
#: How each event comes about.
HAPPENS: dict[ProbeEvent, Callable[[Probe], object]] = {
    E.ASKED: lambda probe: probe.ask(IN_FLIGHT, sent=5, mono_ms=100),
    E.HAS_READ: lambda probe: probe.read(Beat(beat=2, parent_incarnation=PARENT, received=5), PARENT),
    E.LOOKED: lambda probe: probe.look(Held(2, frozenset({"there"})), probe.since_ms),
    E.HEARD_OUT: lambda probe: probe.hear_out(Beat(beat=3, sent=9), taken=9),
    E.JUDGED: lambda probe: probe.judge(IN_FLIGHT),
    E.EXPIRED: lambda probe: probe.expire(100 + PATIENCE_MS, PATIENCE_MS),
    E.RESTARTED: lambda probe: probe.restart(),
}
WAY = [E.ASKED, E.HAS_READ, E.LOOKED, E.HEARD_OUT]


def at(state: ProbeState) -> Probe:
    """A probe that has come to this state in the ordinary way."""
    probe = Probe()
    for event in WAY[: list(S).index(state)]:
        HAPPENS[event](probe)
    assert probe.state is state
    return probe


def meant() -> dict[tuple[ProbeState, ProbeEvent], ProbeState | None]:
    head, *rows = [line.split() for line in MEANT.strip().splitlines()]
    return {
        (S[state], E[row[0]]): None if after == "-" else S[after]
        for row in rows
        for state, after in zip(head, row[1:], strict=True)
    }


@pytest.mark.parametrize(("state", "event"), list(product(S, E)), ids=lambda one: one.name.lower())
def test_what_follows_an_event(state: ProbeState, event: ProbeEvent) -> None:
    probe = at(state)
    before = deepcopy(probe)

    happened = HAPPENS[event](probe)

    after = meant()[state, event]
    assert bool(happened) is (after is not None)
    assert probe.state is (after or state)
    assert after is not None or probe == before  # what means nothing changes nothing
    assert TRANSITIONS[state].get(event) is after


@pytest.mark.parametrize("event", [E.JUDGED, E.EXPIRED, E.RESTARTED])
def test_a_question_that_has_ended_leaves_nothing_of_its_answer_to_the_next(event: ProbeEvent) -> None:
    probe = at(S.CONFIRMED if event is E.JUDGED else S.LOOKED)

    HAPPENS[event](probe)
    HAPPENS[E.ASKED](probe)

    assert probe == at(S.ASKED)


def test_a_task_is_lost_when_the_child_has_read_past_it_and_does_not_hold_it() -> None:
    assert at(S.CONFIRMED).judge(IN_FLIGHT) == ["lost"]


def test_what_is_found_with_a_child_that_shows_its_end_is_lost_on_the_way_back() -> None:
    assert at(S.CONFIRMED).judge(IN_FLIGHT, ended=("there",)) == ["there", "lost"]


def test_a_task_that_came_back_and_was_handed_over_again_since_the_question_is_not_lost_by_its_answer() -> None:
    assert at(S.CONFIRMED).judge({"there": 1, "lost": 3}) == []


def test_what_is_handed_over_after_the_question_is_not_lost_by_its_answer() -> None:
    assert at(S.CONFIRMED).judge({**IN_FLIGHT, "new": 3}) == ["lost"]


def test_what_is_handed_over_in_the_step_of_the_question_is_not_asked_after() -> None:
    probe = Probe()

    assert probe.ask({"old": 1, "fresh": 2}, sent=5, mono_ms=0, fresh={"fresh": "pending"})

    assert (probe.sent, probe.tasks) == (5, {"old": 1})


@pytest.mark.parametrize(("in_flight", "fresh"), [({}, ()), ({"fresh": 1}, ("fresh",))])
def test_nothing_is_asked_of_a_child_that_may_have_nothing(in_flight: dict[str, int], fresh: tuple[str, ...]) -> None:
    probe = Probe()

    assert not probe.ask(in_flight, sent=5, mono_ms=0, fresh=fresh)

    assert probe == Probe()


@pytest.mark.parametrize(
    "beat",
    [Beat(parent_incarnation=7, received=4), Beat(parent_incarnation=6, received=5)],
    ids=["it has not read so far", "it counts the messages of our predecessor"],
)
def test_a_child_has_not_read_what_was_sent_before_it_says_so(beat: Beat) -> None:
    probe = at(S.ASKED)

    assert not probe.read(beat, PARENT)

    assert probe.state is S.ASKED


def test_what_an_earlier_parent_sent_may_lie_unread_until_something_of_this_one_has_been_read() -> None:
    probe = Probe()
    probe.ask(IN_FLIGHT, sent=0, mono_ms=0)

    assert not probe.read(Beat(parent_incarnation=6, received=5), PARENT)


@pytest.mark.parametrize("state", [S.READ, S.LOOKED])
def test_what_was_found_for_an_earlier_question_says_nothing_of_this_one(state: ProbeState) -> None:
    probe = at(state)
    before = deepcopy(probe)

    assert not probe.look(Held(9, frozenset()), probe.since_ms - 1)

    assert probe == before


@pytest.mark.parametrize(
    ("beat", "taken"), [(Beat(beat=2, sent=9), 9), (Beat(beat=3, sent=9), 8)], ids=["not after it", "not all was taken"]
)
def test_a_report_may_be_on_the_way_until_all_that_was_said_since_the_look_is_taken(beat: Beat, taken: int) -> None:
    probe = at(S.LOOKED)

    assert not probe.hear_out(beat, taken)

    assert probe.state is S.LOOKED


@pytest.mark.parametrize("state", [S.ASKED, S.READ, S.LOOKED])
def test_a_question_is_open_for_as_long_as_the_patience_lasts(state: ProbeState) -> None:
    probe = at(state)

    assert not probe.expire(probe.since_ms + PATIENCE_MS - 1, PATIENCE_MS)
    assert probe.expire(probe.since_ms + PATIENCE_MS, PATIENCE_MS)
