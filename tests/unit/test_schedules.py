"""What a schedule may be, when it fires, and what becomes of firings that come too late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import BadSchedule
from core.schedules import MISSED_KEPT, Schedule, due, fired_since, firing_id, next_firing, task_of_firing, upcoming
from core.tasks import Task, is_task_id

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def schedule(**fields: Any) -> Schedule:
    timing = {} if "every_s" in fields else {"cron": "0 * * * *"}
    return Schedule(**{"name": "report", "task": {"task_type": "sum", "payload": [1]}, **timing, **fields})


def since_noon(**fields: Any) -> Schedule:
    """One that was recorded at noon."""
    return schedule(**fields).evolve(since=NOON, fired_until=NOON)


def test_a_schedule_travels_as_json() -> None:
    given = schedule(metadata={"of": "ada"}, timezone="Europe/Berlin", until=NOON)
    assert Schedule.from_json(given.to_json()) == given
    assert given.to_dict()["missed"] == "once"
    assert given.metadata == {"of": "ada"}
    assert since_noon().given == schedule()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a b"}, "use 1 to 64 letters"),
        ({"name": "report@noon"}, "use 1 to 64 letters"),
        (
            {"keeps_threads": True, "task": {"task_type": "x", "run": {"thread_id": "t"}}},
            "leave out thread_id or keeps_t",
        ),
        ({"every_s": 5, "cron": "* * * * *"}, "give either cron='0 9 [*] [*] [*]' or every_s=60"),
        ({"cron": None}, "give either cron="),
        ({"cron": "* * * *"}, "give five fields"),
        ({"cron": "* * * * * *"}, "give five fields.*Use every_s for less than a minute"),
        ({"cron": "@daily"}, "write '0 0 [*] [*] [*]'"),
        ({"cron": "61 * * * *"}, "the minute is not one"),
        ({"cron": "0 0 30 2 *"}, "the day-of-month is not one"),
        ({"cron": "* * */20 * 1L"}, "no such day within 50 years"),
        ({"timezone": "Berlin"}, "use an IANA name such as 'Europe/Berlin'"),
        ({"timezone": "../etc/passwd"}, "use an IANA name"),
        ({"timezone": "Europe"}, "use an IANA name"),
        ({"every_s": 60, "timezone": "Europe/Berlin"}, "an interval has no time zone"),
        ({"every_s": 0}, "schedule field 'every_s'"),
        ({"missed": "most"}, "schedule field 'missed'"),
        ({"until": datetime(2026, 1, 1)}, "schedule field 'until'"),  # noqa: DTZ001
        ({"crom": "* * * * *"}, "did you mean 'cron'"),
        ({"owner": "client:eve"}, "no such field"),
        ({"task": {"task_type": "no type"}}, "schedule field 'task'"),
        ({"task": Task(task_id="mine", task_type="sum")}, "leave it out: each firing has an id of its own"),
        ({"task": Task(task_type="sum", deadline=NOON)}, "use timeout_s and delay_s"),
        ({"task": Task(task_type="sum").evolve(status="completed")}, "the system alone sets it"),
        ({"task": 5}, "schedule field 'task'"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_cure(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSchedule, match=said):
        schedule(**fields)


def test_what_a_client_writes_by_itself_is_checked_as_well() -> None:
    for record in (b"[]", b"{", b'{"name":"x"}', b'{"name":"x","task":{"task_type":"y"},"cron":"x","more":1}'):
        with pytest.raises(BadSchedule):
            Schedule.from_json(record)
    forged = Schedule.from_json(b'{"name":"x","task":{"task_type":"y","attempt":3},"every_s":5}')
    with pytest.raises(BadSchedule, match="'attempt'"):
        forged.check()


def test_a_firing_has_the_id_of_its_time() -> None:
    berlin = datetime.fromisoformat("2026-11-28T13:00:00+01:00")
    assert firing_id("report", berlin) == "report@2026-11-28T12:00:00Z"
    assert is_task_id(firing_id("r" * 64, NOON))


def test_an_interval_counts_from_when_it_was_recorded() -> None:
    every = since_noon(every_s=90)
    assert next_firing(every, NOON) == NOON + timedelta(seconds=90)
    assert next_firing(every, NOON + timedelta(seconds=90)) == NOON + timedelta(seconds=180)
    assert next_firing(every, NOON - HOUR) == NOON + timedelta(seconds=90)


def test_nothing_fires_later_than_it_is_to() -> None:
    until = since_noon(until=NOON + 2 * HOUR)
    assert upcoming(until, NOON, 5) == [NOON + HOUR, NOON + 2 * HOUR]
    assert upcoming(until.evolve(paused=True), NOON, 5) == []


def test_nothing_is_due_before_its_time_or_after_a_clock_was_set_back() -> None:
    assert due(since_noon(), NOON + HOUR - timedelta(milliseconds=1)) is None
    assert due(since_noon(), NOON - 5 * HOUR) is None


@pytest.mark.parametrize("missed", ["skip", "once", "all"])
def test_a_firing_that_is_a_little_late_is_none_that_was_missed(missed: Any) -> None:
    found = due(since_noon(every_s=10, missed=missed), NOON + timedelta(seconds=29))
    assert found
    assert found.firings == (NOON + timedelta(seconds=10), NOON + timedelta(seconds=20))
    assert found.missed is None
    assert found.until == NOON + timedelta(seconds=20)


@pytest.mark.parametrize(
    ("missed", "opens"),
    [("skip", []), ("once", [4]), ("all", [1, 2, 3, 4])],
)
def test_firings_that_were_missed_become_what_the_schedule_says(missed: Any, opens: list[int]) -> None:
    now = NOON + 4.5 * HOUR
    found = due(since_noon(missed=missed), now)
    assert found
    assert found.firings == tuple(NOON + hours * HOUR for hours in opens)
    assert found.missed == NOON + HOUR
    assert due(since_noon(missed=missed).evolve(fired_until=found.until), now) is None


@pytest.mark.parametrize(("missed", "opens"), [("skip", [5]), ("once", [5]), ("all", [1, 2, 3, 4, 5])])
def test_the_one_that_is_in_time_comes_in_any_case(missed: Any, opens: list[int]) -> None:
    found = due(since_noon(missed=missed), NOON + 5 * HOUR + timedelta(seconds=3))
    assert found
    assert found.firings == tuple(NOON + hours * HOUR for hours in opens)


def test_of_years_of_missed_firings_the_latest_thousand_are_made_up_for() -> None:
    found = due(since_noon(every_s=1, missed="all"), NOON + timedelta(days=3 * 365))
    assert found
    assert len(found.firings) == MISSED_KEPT + 30
    assert found.firings[-1] == NOON + timedelta(days=3 * 365)
    hourly = due(since_noon(missed="all"), NOON + timedelta(days=365, minutes=5))
    assert hourly
    assert len(hourly.firings) == MISSED_KEPT


def test_the_times_that_have_opened_tasks_follow_from_how_far_a_schedule_is() -> None:
    hours = [NOON + number * HOUR for number in range(1, 4)]
    at_three = since_noon().evolve(fired_until=NOON + 3.5 * HOUR)
    assert fired_since(at_three, None) == hours
    assert fired_since(at_three, hours[0]) == hours[1:]
    assert fired_since(at_three, hours[2]) == fired_since(since_noon(), None) == []
    assert fired_since(at_three.evolve(owed=(hours[1], hours[2])), None) == hours[:1]
    assert len(fired_since(at_three.evolve(since=NOON - timedelta(days=365)), None)) == MISSED_KEPT
    assert fired_since(schedule(), None) == []


def test_a_schedule_that_keeps_threads_gives_each_task_one_of_its_own() -> None:
    first, again, second = (task_of_firing(schedule(keeps_threads=True), at) for at in (NOON, NOON, NOON + HOUR))
    assert first.run
    assert second.run
    assert first.run.thread_id not in (None, first.task_id, second.run.thread_id)
    assert again == first.evolve(created_at=again.created_at)
    assert task_of_firing(schedule(), NOON).run is None
