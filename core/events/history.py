"""The latest events of a bus, found by what they say without looking at the others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter

from msgspec.structs import replace

from core.agent_event import AgentEvent
from core.event_types import EventType

__all__ = ["History", "Wanted"]

#: What events are found by.
FIELDS = ("type", "stream_id", "node_id", "execution_id", "correlation_id")
#: A value, or None for any, for each of FIELDS.
Wanted = Sequence[str | None]
#: Each repeats the text of those before it, if its publisher says so: kept as they are, they would take space that
#: grows with the square of the text.
DELTAS = frozenset({EventType.LLM_TEXT_DELTA, EventType.CLIENT_OUTPUT_DELTA})
SNAPSHOT = "snapshot"

_stamp = itemgetter(0)
_keys_of = attrgetter(*FIELDS)


class _Kept:
    """An event in the history. What it is found by stays what it was when it came, whatever its owner does to it."""

    __slots__ = ("event", "keys", "place")

    def __init__(self, event: AgentEvent, place: int) -> None:
        self.event, self.place = event, place
        self.keys: tuple[str | None, ...] = _keys_of(event)


#: What is found by a value that no event has.
NONE: deque[_Kept] = deque()


class History:
    """The last `limit` events. What a look-up costs follows from how many events the most selective of its conditions
    lets pass, and not from how many are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: deque[_Kept] = deque()
        self._rows: tuple[dict[str, deque[_Kept]], ...] = tuple({} for _ in FIELDS)
        self._times: list[tuple[datetime, int, _Kept]] = []  # by timestamp, the gone ones too until they are half
        self._snapshots: dict[tuple[str | None, ...], tuple[_Kept, str]] = {}  # the latest of each text
        self._added = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, event: AgentEvent) -> None:
        if not self._limit:
            return
        self._added += 1
        kept = _Kept(event, self._added)
        self._kept.append(kept)
        for rows, key in zip(self._rows, kept.keys):  # noqa: B905  # this is the path of every event
            if key is not None:
                if key in rows:
                    rows[key].append(kept)
                else:
                    rows[key] = deque((kept,))
        times = self._times
        if times and event.timestamp < times[-1][0]:
            insort(times, (event.timestamp, kept.place, kept))
        else:
            times.append((event.timestamp, kept.place, kept))
        if event.type in DELTAS:
            self._keep_one_snapshot(kept)
        if len(self._kept) > self._limit:
            self._evict()

    def newest(
        self, wanted: Wanted, limit: int | None, since: datetime | None = None, until: datetime | None = None
    ) -> list[AgentEvent]:
        """The last `limit` of those that have what is wanted, newest first; None: all. `since` and `until` belong to
        the time that they span."""
        found = []
        for kept in self._candidates(wanted, since, until) if limit != 0 else ():
            event = kept.event
            if _has(kept, wanted) and _is_between(event.timestamp, since, until):
                found.append(event)
                if len(found) == limit:
                    break
        return found

    def first_after(self, event_id: str, wanted: Wanted) -> AgentEvent | None:
        """The first event with what is wanted that came after the one of this id; of all that are kept, if that one is
        not among them."""
        place = next((kept.place for kept in reversed(self._kept) if kept.event.id == event_id), 0)
        first = None
        for kept in self._candidates(wanted, None, None):
            if kept.place <= place:
                break
            if _has(kept, wanted):
                first = kept.event
        return first

    def _candidates(self, wanted: Wanted, since: datetime | None, until: datetime | None) -> Iterable[_Kept]:
        """Those that the most selective condition lets pass, newest first."""
        asked_for = [rows.get(key, NONE) for rows, key in zip(self._rows, wanted, strict=True) if key is not None]
        chosen = min(asked_for, key=len, default=self._kept)
        if since is not None or until is not None:
            start = 0 if since is None else bisect_left(self._times, since, key=_stamp)
            end = len(self._times) if until is None else bisect_right(self._times, until, key=_stamp)
            if end - start < len(chosen):
                return self._between(start, end)
        return reversed(chosen)

    def _between(self, start: int, end: int) -> list[_Kept]:
        oldest = self._kept[0].place
        found = [kept for _, place, kept in self._times[start:end] if place >= oldest]
        return sorted(found, key=lambda kept: kept.place, reverse=True)

    def _keep_one_snapshot(self, kept: _Kept) -> None:
        """Takes the snapshot out of the event before, if this one repeats it. Who was given that event has it as it
        was."""
        snapshot, text = kept.event.data.get(SNAPSHOT), kept.keys[:4]
        if not isinstance(snapshot, str):
            return
        before, repeated = self._snapshots.get(text, (None, ""))
        if before is not None and snapshot.startswith(repeated):
            data = {key: value for key, value in before.event.data.items() if key != SNAPSHOT}
            before.event = replace(before.event, data=data)
        self._snapshots[text] = kept, snapshot

    def _evict(self) -> None:
        oldest = self._kept.popleft()
        for rows, key in zip(self._rows, oldest.keys):  # noqa: B905
            if key is not None:
                row = rows[key]
                row.popleft()
                if not row:
                    del rows[key]
        if len(self._times) > 2 * len(self._kept) + 100:
            self._times = [each for each in self._times if each[1] > oldest.place]
        if oldest.keys[0] in DELTAS and self._snapshots.get(oldest.keys[:4], (None,))[0] is oldest:
            del self._snapshots[oldest.keys[:4]]


def _has(kept: _Kept, wanted: Wanted) -> bool:
    return all(key is None or key == had for key, had in zip(wanted, kept.keys, strict=True))


def _is_between(moment: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or moment >= since) and (until is None or moment <= until)
