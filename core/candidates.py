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
CIRCLE = 1 << 64
#: Number of names whose points are remembered.
NAMES_KEPT = 16_384


class Candidates:
    """Children in the order of their names, each once."""

    __slots__ = ("_known", "_owners", "_points", "_regions", "_turns", "children", "names")

    def __init__(self, children: Iterable[Subordinate] = ()) -> None:
        """`children`: by name."""
        self.children = list(children)
        self.names = [child.address.agent_id for child in self.children]
        self._known: dict[str, Subordinate] = {}
        self._turns: list[tuple[float, str]] | None = None
        self._regions: dict[str, list[Subordinate]] | None = None
        self._points: list[int] = []
        self._owners: dict[int, Subordinate] = {}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, child: Subordinate) -> None:
        """Takes a child in, for which nothing has been prepared yet."""
        place = bisect_left(self.names, child.name)
        self.children.insert(place, child)
        self.names.insert(place, child.name)
        self._turns = self._regions = None
        self._points = []

    def remove(self, child: Subordinate) -> None:
        """Takes a child out, which is one of these."""
        name = child.name
        place = bisect_left(self.names, name)
        del self.names[place], self.children[place]
        self._known.pop(name, None)
        if self._regions is not None:
            there = self._regions[child.beat.region]
            del there[bisect_left(there, name, key=by_name)]
        for point in points_of(name) if self._points else ():
            if self._owners.get(point) is child:
                del self._points[bisect_left(self._points, point)], self._owners[point]

    def without(self, child: Subordinate) -> Self:
        """The others."""
        return type(self)(other for other in self.children if other is not child)

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

    def nearest(self, key: int) -> Subordinate:
        """The one that has the first point after one of the key's, on the shortest way: multi-probe consistent hashing
        (Appleton and O'Reilly 2015). Of no other child does it depend how near one is, so when a child comes or goes,
        only the keys move that are nearest to it."""
        if not self._points:
            self._owners = {point: child for child in self.children for point in points_of(child.address.agent_id)}
            self._points = sorted(self._owners)
        points, least, nearest = self._points, CIRCLE, self._points[0]
        first, count = points[0] + CIRCLE, len(points)
        for probe in POINTS.unpack(blake2b(key.to_bytes(8), digest_size=POINTS.size).digest()):
            place = bisect_left(points, probe)
            point = points[place] if place < count else first
            if point - probe < least:
                least, nearest = point - probe, point
        return self._owners[nearest % CIRCLE]


@lru_cache(maxsize=NAMES_KEPT)
def points_of(name: str) -> tuple[int, ...]:
    """The points of a child on the circle."""
    return POINTS.unpack(blake2b(name.encode(), digest_size=POINTS.size).digest())
