"""How many tasks the kinds of workers of a child have, and whether there is room for one more.

A child has workers of one or more kinds, each with a set of skills. Each of its tasks is counted for a kind that can do
it, though the child may give it to another. When all kinds that can do a task are full, tasks counted for them are
counted for others that can do those as well, along a path to a kind with room: an augmenting path of a bipartite
matching (Berge 1957). So no kind is thought to be full because of tasks that another could do. Only counts by needs are
kept, so a look takes time in proportion to the few kinds and needs, whatever the number of tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from weakref import WeakValueDictionary

__all__ = ["Counts", "Needs", "SkillSets", "skill_sets"]

Needs = tuple[str, ...]
#: From the kind that gets the new task to the one with room: each kind, and the needs of the task that it passes on.
Path = list[tuple[int, Needs]]
#: Number of needs whose kinds are remembered, since clients may name ever new ones.
MAX_KNOWN = 1_024


class SkillSets(dict[Needs, tuple[int, ...]]):
    """By needs, the kinds of workers that have all these skills. All children whose kinds have the same skills share
    it."""

    __slots__ = ("__weakref__", "sets")

    def __init__(self, sets: tuple[frozenset[str], ...]) -> None:
        super().__init__()
        self.sets = sets

    def __missing__(self, needs: Needs) -> tuple[int, ...]:
        found = tuple(kind for kind, skills in enumerate(self.sets) if skills.issuperset(needs))
        if len(self) == MAX_KNOWN:
            self.clear()
        self[needs] = found
        return found


_shared: WeakValueDictionary[tuple[frozenset[str], ...], SkillSets] = WeakValueDictionary()


def skill_sets(kinds: Iterable[Iterable[str]]) -> SkillSets:
    """The skills of these kinds."""
    sets = tuple(map(frozenset, kinds))
    found = _shared.get(sets)
    if found is None:
        found = _shared[sets] = SkillSets(sets)
    return found


class Counts:
    """The tasks of a child by the kind for which they are counted. Kinds are numbered as their skills are given."""

    __slots__ = ("_by_needs", "able", "held")

    def __init__(self, skills: SkillSets) -> None:
        self.able = skills
        self.held = [0] * len(skills.sets)  #: number of tasks, by kind
        self._by_needs: list[dict[Needs, int]] = [{} for _ in skills.sets]

    def fits(self, needs: Needs, limits: Sequence[int]) -> bool:
        """Whether one more task fits, when each kind has at most its limit."""
        held = self.held
        able = self.able[needs]
        for kind in able:
            if held[kind] < limits[kind]:
                return True
        return len(able) < len(held) and self._path(needs, limits) is not None

    def room(self, needs: Needs, limits: Sequence[int]) -> int:
        """How many more tasks fit without others being counted anew. Each task that is added takes one at most."""
        held = self.held
        return sum([max(0, limits[kind] - held[kind]) for kind in self.able[needs]])

    def load(self, needs: Needs, slots: Sequence[int]) -> float:
        """How many tasks the kinds that can do this have, relative to how many they run at once."""
        held = self.held
        if len(held) == 1:
            return held[0] / (slots[0] or 1)
        able = self.able[needs]
        return sum([held[kind] for kind in able]) / (sum([slots[kind] for kind in able]) or 1)

    def add(self, needs: Needs, *limits: Sequence[int]) -> None:
        """Counts one more task, within the first of these limits that leaves room; if none does, for the kind with the
        fewest."""
        if len(self.held) == 1:
            self.held[0] += 1
            return
        for each in limits:
            if (path := self._path(needs, each)) is not None:
                for (kind, passed_on), (receiver, _) in pairwise(path):
                    self._count(kind, passed_on, -1)
                    self._count(receiver, passed_on, 1)
                self._count(path[0][0], needs, 1)
                return
        self._count(min(self.able[needs] or range(len(self.held)), key=self.held.__getitem__), needs, 1)

    def remove(self, needs: Needs) -> None:
        """Counts one task less, of the kind that has most among those for which such a task is counted."""
        if len(self.held) == 1:
            self.held[0] -= 1
            return
        having = [kind for kind, counted in enumerate(self._by_needs) if needs in counted]
        self._count(max(having, key=self.held.__getitem__), needs, -1)

    def _path(self, needs: Needs, limits: Sequence[int]) -> Path | None:
        """The shortest path to a kind with room, among equally near ones to that with the largest share of its room
        left; None: there is none."""
        held = self.held
        nearest: Sequence[int] = self.able[needs]
        #: kind -> the one before it on the path, and the needs of the task which that passes on
        came: dict[int, tuple[int, Needs] | None] = dict.fromkeys(nearest)
        while nearest:
            if with_room := [kind for kind in nearest if held[kind] < limits[kind]]:
                path: Path = [(min(with_room, key=lambda kind: held[kind] / limits[kind]), ())]
                while (before := came[path[0][0]]) is not None:
                    path.insert(0, before)
                return path
            further = []
            for kind in nearest:
                for passed_on in self._by_needs[kind]:
                    for receiver in self.able[passed_on]:
                        if receiver not in came:
                            came[receiver] = (kind, passed_on)
                            further.append(receiver)
            nearest = further
        return None

    def _count(self, kind: int, needs: Needs, by: int) -> None:
        self.held[kind] += by
        counted = self._by_needs[kind]
        counted[needs] = counted.get(needs, 0) + by
        if not counted[needs]:
            del counted[needs]
