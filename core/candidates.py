"""The children that may get a task, prepared for whoever chooses among them.

What a strategy needs is prepared when it is first asked for, once for a set of children and not for each task. A choice
then takes time with the logarithm of their number at most, and so does taking one out.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from struct import Struct
from typing import Self

from core.agents import Subordinate

__all__ = ["Candidates", "by_name"]

by_name = attrgetter("address.agent_id")
#: On the circle of 64-bit numbers a child has so many points, and a key as many.
POINTS = Struct("<8Q")
AROUND = 1 << 64
#: Number of names whose points are remembered, of sets of names of which they are remembered in their order, and of
#: keys whose nearest name in such a set is.
NAMES_KEPT, CIRCLES_KEPT, KEYS_KEPT = 16_384, 8, 16_384


class Candidates:
    """Children in the order of their names, each once."""

    __slots__ = ("_circle", "_known", "_regions", "_turns", "children", "names")

    def __init__(self, children: Iterable[Subordinate] = ()) -> None:
        """`children`: by name."""
        self.children = list(children)
        self.names = [child.address.agent_id for child in self.children]
        self._known: dict[str, Subordinate] = {}
        self._turns: list[tuple[float, str]] | None = None
        self._regions: dict[str, list[Subordinate]] | None = None
        self._circle: Circle | None = None

    def __len__(self) -> int:
        return len(self.names)

    def add(self, child: Subordinate) -> None:
        """Takes a child in, for which nothing has been prepared yet."""
        place = bisect_left(self.names, child.name)
        self.children.insert(place, child)
        self.names.insert(place, child.name)
        self._turns = self._regions = self._circle = None

    def remove(self, child: Subordinate) -> None:
        """Takes a child out, which is one of these."""
        name = child.name
        place = bisect_left(self.names, name)
        del self.names[place], self.children[place]
        self._known.pop(name, None)
        if self._regions is not None:
            there = self._regions[child.beat.region]
            del there[bisect_left(there, name, key=by_name)]
        if self._circle is not None:
            self._circle = self._circle.without(name)

    def without(self, child: Subordinate) -> Self:
        """The others."""
        others = type(self)()
        others.children, others.names, others._circle = self.children.copy(), self.names.copy(), self._circle
        others.remove(child)
        return others

    def after(self, name: str) -> Subordinate:
        """The one whose name follows; after the last name, the first one."""
        return self.children[bisect_right(self.names, name) % len(self.names)]

    def in_region(self, region: str) -> Sequence[Subordinate]:
        """Those that say that they are there."""
        if self._regions is None:
            self._regions = {}
            for child in self.children:
                self._regions.setdefault(child.beat.region, []).append(child)
        return self._regions.get(region, ())

    def least(self, ends: dict[str, float]) -> Subordinate:
        """The one with the least of these numbers, 0.0 if it has none, among equals the first by name. The number of a
        child may only grow as long as it is here."""
        if self._turns is None:
            self._known = dict(zip(self.names, self.children, strict=True))
            self._turns = [(ends.get(name, 0.0), name) for name in self.names]
            heapq.heapify(self._turns)
        turns, known = self._turns, self._known
        while True:
            end, name = turns[0]
            now = ends.get(name, 0.0)
            if now == end and name in known:
                return known[name]
            if name in known:
                heapq.heapreplace(turns, (now, name))
            else:
                heapq.heappop(turns)

    def nearest(self, key: str) -> Subordinate:
        """The one that has the first point after one of the key's, on the shortest way: multi-probe consistent hashing
        (Appleton and O'Reilly 2015). Of no other child does it depend how near one is, so when a child comes or goes,
        only the keys move that are nearest to it."""
        if self._circle is None:
            self._circle = circle_of(tuple(self.names))
        return self.children[bisect_left(self.names, self._circle.nearest(key))]


class Circle:
    """The points of some names in their order, and whose each is. The first one follows again after the last."""

    __slots__ = ("_is_own", "_known", "_owners", "_points")

    def __init__(self, points: list[int], owners: list[str], *, is_own: bool) -> None:
        self._points, self._owners = points, owners
        self._is_own = is_own  # and not that of others as well
        self._known: dict[str, str] = {}  # by key, the nearest name

    def nearest(self, key: str) -> str:
        """The name of which a point follows one of the key's, on the shortest way."""
        name = self._known.get(key)
        if name is None:
            if len(self._known) == KEYS_KEPT:
                self._known.clear()
            name = self._known[key] = self._look_up(key)
        return name

    def without(self, name: str) -> Circle:
        """The points of the others: this circle itself, if nobody else has it."""
        if not self._is_own:
            return Circle(self._points.copy(), self._owners.copy(), is_own=True).without(name)
        self._known.clear()
        points, owners = self._points, self._owners
        for point in points_of(name):
            place = bisect_left(points, point)
            if points[place] == point and owners[place] == name:
                del points[place], owners[place]
                points[-1], owners[-1] = points[0] + AROUND, owners[0]
        return self

    def _look_up(self, key: str) -> str:
        points, probes = self._points, points_in(key)
        ways = [points[bisect_left(points, probe)] - probe for probe in probes]
        return self._owners[bisect_left(points, probes[ways.index(min(ways))])]


@lru_cache(maxsize=CIRCLES_KEPT)  # who is there changes less often than tasks come
def circle_of(names: tuple[str, ...]) -> Circle:
    """The circle of these names, at least one."""
    owners = {point: name for name in names for point in points_of(name)}
    points = sorted(owners)
    return Circle([*points, points[0] + AROUND], [owners[point] for point in (*points, points[0])], is_own=False)


@lru_cache(maxsize=NAMES_KEPT)
def points_of(name: str) -> tuple[int, ...]:
    """The points of a child on the circle."""
    return points_in(name)


def points_in(text: str) -> tuple[int, ...]:
    """Points that follow from a text."""
    return POINTS.unpack(blake2b(text.encode(), digest_size=POINTS.size).digest())
