"""What a bus remembers: found by what it says, bounded, and with one snapshot for each text."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import BadEvent
from core.event_types import EventType
from core.events import AgentEvent, EventBus
from core.events.history import History

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ANY = (None,) * 5


def seconds(count: float) -> datetime:
    return BEGIN + timedelta(seconds=count)


def numbers(events: list[AgentEvent]) -> list[int]:
    return [event.data["number"] for event in events]


async def filled(count: int, max_history: int = 1000) -> EventBus:
    """A bus with events 0, 1, ... of which every second, third, ... has a property; one happens in each second."""
    bus = EventBus(max_history)
    for number in range(count):
        await bus.publish(
            AgentEvent(
                EventType.ERROR if number % 2 else EventType.CUSTOM,
                stream_id=f"s{number % 3}", node_id=f"n{number % 5}", execution_id=f"x{number % 7}",
                data={"number": number}, timestamp=seconds(number), correlation_id=f"c{number % 4}",
            )
        )  # fmt: skip
    return bus


async def test_history_is_newest_first_and_limited() -> None:
    bus = await filled(200)
    assert numbers(bus.get_history()) == list(range(199, 99, -1))
    assert numbers(bus.get_history(limit=3)) == [199, 198, 197]
    assert len(bus.get_history(limit=None)) == 200
    assert bus.get_history(limit=0) == []
    with pytest.raises(ValueError, match="limit"):
        bus.get_history(limit=-1)


async def test_history_is_found_by_each_property_and_by_all_of_them_together() -> None:
    bus = await filled(100)
    assert numbers(bus.get_history(EventType.ERROR, limit=2)) == [99, 97]
    assert numbers(bus.get_history(stream_id="s1", limit=2)) == [97, 94]
    assert numbers(bus.get_history(node_id="n2", limit=2)) == [97, 92]
    assert numbers(bus.get_history(execution_id="x3", limit=2)) == [94, 87]
    assert numbers(bus.get_history(correlation_id="c1", limit=2)) == [97, 93]
    assert numbers(bus.get_history(EventType.ERROR, "s1", limit=2, node_id="n2", correlation_id="c1")) == [97, 37]
    assert numbers(bus.get_history(since=seconds(10), until=seconds(12))) == [12, 11, 10]
    assert numbers(bus.get_history(EventType.ERROR, since=seconds(96.5))) == [99, 97]
    assert numbers(bus.get_history(EventType.ERROR, until=seconds(3.5))) == [3, 1]


async def test_history_by_an_empty_text_is_what_has_an_empty_text() -> None:
    bus = await filled(10)
    assert bus.get_history(stream_id="", limit=None) == []
    assert bus.get_history(execution_id="") == []
    await bus.publish(AgentEvent(EventType.CUSTOM, "", data={"number": 77}))
    assert numbers(bus.get_history(stream_id="")) == [77]


async def test_a_misspelt_type_and_a_time_without_a_zone_are_refused() -> None:
    bus = await filled(1)
    with pytest.raises(BadEvent, match="Did you mean"):
        bus.get_history("custon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time zone"):
        bus.get_history(since=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [9]), (3, [9, 8, 7])])
async def test_history_keeps_the_latest_and_no_more(limit: int, kept: list[int]) -> None:
    bus = await filled(10, max_history=limit)
    assert numbers(bus.get_history(limit=None)) == kept
    assert bus.get_stats()["kept_events"] == limit


async def test_what_is_changed_in_an_event_later_changes_nothing_about_how_it_is_found() -> None:
    bus = EventBus(max_history=2)
    event = AgentEvent(EventType.CUSTOM, "before", data={"number": 1})
    await bus.publish(event)
    event.stream_id = "after"
    assert bus.get_history(stream_id="before") == [event]
    for number in range(3):
        await bus.publish(AgentEvent(EventType.CUSTOM, "s", data={"number": number}))
    assert bus.get_history(stream_id="before") == []


def test_indexes_are_evicted_with_their_events() -> None:
    """Whatever came before, what is held is that of the events that are kept."""
    history = History(10)
    for number in range(1000):
        history.add(
            AgentEvent(
                EventType.LLM_TEXT_DELTA, f"s{number}", f"n{number}", f"x{number}", {"snapshot": "x"},
                seconds(-number), f"c{number}",
            )
        )  # fmt: skip
    assert len(history) == 10
    for rows in history._rows[1:]:
        assert {key[1:] for key in rows} == {str(number) for number in range(990, 1000)}
    assert [len(row) for row in history._rows[0].values()] == [10]
    assert len(history._snapshots) == 10
    assert len(history._times) <= 120


def test_a_look_up_takes_what_it_finds_and_not_what_there_is() -> None:
    history = History(10_000)
    for number in range(10_000):
        rare = number % 2500 == 0
        history.add(
            AgentEvent(
                EventType.ERROR if rare else EventType.CUSTOM, "rare" if rare else "s", "rare" if rare else None,
                "rare" if rare else "x", {}, seconds(number), "rare" if rare else None,
            )
        )  # fmt: skip
    for place in range(5):
        wanted: list[str | None] = [None] * 5
        wanted[place] = EventType.ERROR if place == 0 else "rare"
        assert len(list(history._candidates(wanted, None, None))) == 4
    assert len(list(history._candidates(ANY, seconds(50), seconds(53)))) == 4
    assert len(list(history._candidates(ANY, seconds(9_997), None))) == 3


@pytest.mark.parametrize("seed", range(5))
def test_history_finds_what_a_look_at_every_event_finds(seed: int) -> None:
    chance = random.Random(seed)
    history, events = History(30), []

    def some(values: str) -> str | None:
        among: list[str | None] = [None, *values]
        return chance.choice(among)

    for _ in range(300):
        event = AgentEvent(
            chance.choice([EventType.CUSTOM, EventType.ERROR]), some("ab") or "", some("ab"), some("ab"), {},
            seconds(chance.randrange(40)), some("ab"),
        )  # fmt: skip
        history.add(event)
        events.append(event)
        kept = events[-30:]
        wanted = (chance.choice([None, EventType.CUSTOM]), some("ab"), some("ab"), some("ab"), some("ab"))
        since, until = (chance.choice([None, seconds(chance.randrange(40))]) for _ in range(2))
        limit = chance.choice([None, 1, 5])
        expected = [
            one
            for one in reversed(kept)
            if all(
                want is None or want == had
                for want, had in zip(
                    wanted, (one.type, one.stream_id, one.node_id, one.execution_id, one.correlation_id), strict=True
                )
            )
            and (since is None or one.timestamp >= since)
            and (until is None or one.timestamp <= until)
        ]
        assert history.newest(wanted, limit, since, until) == expected[:limit]
        mark = chance.choice(events)
        later = kept[kept.index(mark) + 1 :] if mark in kept else kept
        assert history.first_after(mark.id, ANY) == next(iter(later), None)


# ---- snapshots ----


async def test_of_a_text_that_grows_only_the_latest_event_keeps_the_whole() -> None:
    """Each delta repeats the text before it. Kept like that, 1,000 deltas would hold 500 times the text."""
    bus, text, heard = EventBus(), "", []

    async def handler(event: AgentEvent) -> None:
        heard.append(event.data["snapshot"])

    bus.subscribe([EventType.LLM_TEXT_DELTA], handler)
    for _ in range(1000):
        text += "0123456789"
        await bus.emit_llm_text_delta("s", "n", "0123456789", text, "x")
    kept = bus.get_history(limit=None)
    assert [event.data.get("snapshot") for event in kept] == [text] + [None] * 999
    assert "".join(event.data["content"] for event in reversed(kept)) == text
    assert [len(snapshot) for snapshot in heard] == list(range(10, 10_001, 10))


async def test_texts_of_different_nodes_and_the_next_text_of_a_node_keep_their_snapshots() -> None:
    bus = EventBus()
    for node in ("a", "b"):
        await bus.emit_client_output_delta("s", node, "Hello", "Hello", "x")
        await bus.emit_client_output_delta("s", node, " you", "Hello you", "x")
        await bus.emit_client_output_delta("s", node, "Bye", "Bye", "x")
    snapshots = [event.data.get("snapshot") for event in reversed(bus.get_history(node_id="a"))]
    assert snapshots == [None, "Hello you", "Bye"]
    assert len([event for event in bus.get_history() if "snapshot" in event.data]) == 4


async def test_a_delta_without_snapshot_and_a_snapshot_of_another_type_stay_as_they_are() -> None:
    bus = EventBus()
    await bus.emit_llm_text_delta("s", "n", "Hello")
    for _ in range(2):
        await bus.emit_custom("s", {"snapshot": "x"})
    assert [event.data for event in bus.get_history()] == [{"snapshot": "x"}, {"snapshot": "x"}, {"content": "Hello"}]
