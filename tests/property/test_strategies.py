"""What holds for every strategy, whatever the children, the tasks and the loads."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from core.agents import Subordinate
from core.balancing import Balancer
from core.candidates import Candidates
from core.room import Counts, skill_sets
from core.status_reports import Kind
from core.strategies import CHOOSES, Asks, Strategy, Turns, asks_of
from tests.builders import a_child, a_task

SKILLS = ("a", "b", "c", "d")
skills_of_a_kind = st.sets(st.sampled_from(SKILLS), min_size=1).map(lambda found: tuple(sorted(found)))
needs = st.sets(st.sampled_from(SKILLS), min_size=1, max_size=2).map(lambda found: tuple(sorted(found)))
regions = st.sampled_from(["", "eu", "us"])
NUMBERS = count()

kinds = st.lists(
    st.tuples(skills_of_a_kind, st.integers(0, 4), st.integers(0, 4)).map(
        lambda told: Kind(skills=told[0], concurrency=told[1], capacity=told[1] + told[2])
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def children(draw: st.DrawFn) -> list[Subordinate]:
    """Up to 24 distributors, whose workers are of up to four kinds."""
    return [
        a_child(
            f"d{number:02}", concurrency=0, capabilities=(), kinds=tuple(draw(kinds)), region=draw(regions),
            weight=draw(st.integers(0, 5)), cpu_percent=draw(st.integers(0, 100)),
        )
        for number in range(draw(st.integers(1, 24)))
    ]  # fmt: skip


@st.composite
def tasks(draw: st.DrawFn) -> list[Asks]:
    return [
        asks_of(
            a_task(f"t{number}", regions=tuple(draw(st.lists(regions.filter(bool), max_size=2))), affinity_key="k")
        )._replace(needs=draw(needs))
        for number in range(draw(st.integers(0, 60)))
    ]


def handed_out(
    strategy: Strategy, candidates: list[Subordinate], asked: list[Asks], avoid: str | None = None
) -> list[str]:
    """Who gets each task; empty: it waits."""
    balancer, got = Balancer(candidates, strategy), []
    for number, asks in enumerate(asked):
        served = balancer.can_serve(asks.needs)
        child = balancer.choose(asks, avoid)
        assert served is (child is not None)
        if child is not None:
            child.take(f"{strategy}-{number}-{next(NUMBERS)}", asks.needs)
        got.append(child.name if child else "")
    return got


def anew(candidates: list[Subordinate]) -> list[Subordinate]:
    return [Subordinate(child.address, 1, child.beat, 0) for child in candidates]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Strategy), children(), tasks())
def test_nobody_gets_more_than_it_has_room_for_nor_what_it_cannot_do_and_the_same_happens_again(
    strategy: Strategy, candidates: list[Subordinate], asked: list[Asks]
) -> None:
    got = handed_out(strategy, candidates, asked)

    for child in candidates:
        rooms = zip(child.tasks.held, child.kinds, strict=True)
        assert all(held <= max(kind.capacity, kind.concurrency) for held, kind in rooms)
        assert all(child.can(each.needs) for each, name in zip(asked, got, strict=True) if name == child.name)
    assert handed_out(strategy, anew(candidates), asked) == got


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Strategy), children(), tasks())
def test_no_task_waits_while_a_worker_that_can_run_it_is_idle(
    strategy: Strategy, candidates: list[Subordinate], asked: list[Asks]
) -> None:
    """Each kind of worker is full, as a maximum matching of tasks and slots finds, before a task waits for it."""
    got = handed_out(strategy, candidates, asked)

    waiting = [asks.needs for asks, name in zip(asked, got, strict=True) if not name]
    for needs in waiting:
        for child in candidates:
            for kind, held in zip(child.kinds, child.tasks.held, strict=True):
                assert not set(kind.skills).issuperset(needs) or held >= kind.concurrency


@settings(max_examples=60, deadline=None)
@given(kinds, st.lists(needs, max_size=20))
def test_room_is_found_exactly_when_tasks_can_be_matched_to_it(found: list[Kind], asked: list[tuple[str, ...]]) -> None:
    skills, limits = [frozenset(kind.skills) for kind in found], [kind.capacity for kind in found]
    counts, matched = Counts(skill_sets(skills)), 0
    for each in asked:
        if counts.fits(each, limits):
            counts.add(each, limits)
            matched += 1
        assert all(held <= limit for held, limit in zip(counts.held, limits, strict=True))

    assert sum(counts.held) == matched == _most(skills, limits, asked)


def _most(skills: list[frozenset[str]], limits: list[int], asked: list[tuple[str, ...]]) -> int:
    """The size of a maximum matching, task by task, each place by itself (Kuhn)."""
    places = [kind for kind, limit in enumerate(limits) for _ in range(limit)]
    having: dict[int, int] = {}

    def placed(task: int, seen: set[int]) -> bool:
        for place, kind in enumerate(places):
            if place not in seen and skills[kind].issuperset(asked[task]):
                seen.add(place)
                if place not in having or placed(having[place], seen):
                    having[place] = task
                    return True
        return False

    return sum(placed(task, set()) for task in range(len(asked)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(Strategy), children(), tasks())
def test_the_child_that_failed_gets_a_retry_only_if_no_other_has_room(
    strategy: Strategy, candidates: list[Subordinate], asked: list[Asks]
) -> None:
    balancer = Balancer(candidates, strategy)
    for number, asks in enumerate(asked):
        child = balancer.choose(asks, "d00")
        if child is not None and child.name == "d00":
            assert not any(other.has_room(asks.needs) for other in candidates if other is not child)
        if child is not None:
            child.take(f"{number}", asks.needs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 100))
def test_in_round_robin_nobody_gets_more_than_one_more_than_another(agents: int, number: int) -> None:
    candidates = [a_child(f"d{name:02}", concurrency=200) for name in range(agents)]

    got = Counter(handed_out(Strategy.ROUND_ROBIN, candidates, [asks_of(a_task(f"t{n}")) for n in range(number)]))

    assert max(got.values()) - min(got.get(child.name, 0) for child in candidates) <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(1, 300))
def test_weighted_turns_follow_the_weights_within_one_turn(weights: list[int], number: int) -> None:
    candidates = [a_child(f"d{n}", concurrency=1_000, weight=weight) for n, weight in enumerate(weights)]

    got = Counter(
        handed_out(Strategy.WEIGHTED_ROUND_ROBIN, candidates, [asks_of(a_task(f"t{n}")) for n in range(number)])
    )

    turns = [got.get(f"d{n}", 0) / weight for n, weight in enumerate(weights)]
    assert max(turns) - min(turns) <= 2 / min(weights)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.data())
def test_by_rendezvous_only_the_keys_of_a_child_that_goes_move(agents: int, data: st.DataObject) -> None:
    candidates = [a_child(f"d{name:02}") for name in range(agents)]
    gone = data.draw(st.sampled_from(candidates))
    choose = CHOOSES[Strategy.RENDEZVOUS]
    for number in range(20):
        asks = asks_of(a_task(f"t{number}", affinity_key=f"key-{number}"))
        before = choose(Candidates(candidates), asks, Turns())

        after = choose(Candidates(child for child in candidates if child is not gone), asks, Turns())

        assert after is before or before is gone


@settings(max_examples=40, deadline=None)
@given(children(), st.permutations(["eu", "us", ""]))
def test_the_nearest_region_that_is_ready_is_chosen(candidates: list[Subordinate], wished: list[str]) -> None:
    order = [region for region in wished if region]
    asks = asks_of(a_task(regions=tuple(order)))

    chosen = CHOOSES[Strategy.GEOGRAPHIC](Candidates(candidates), asks, Turns())

    there = {child.beat.region for child in candidates}
    nearest = next((region for region in order if region in there), None)
    assert nearest is None or chosen.beat.region == nearest


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Strategy), children(), st.lists(st.tuples(st.integers(0, 23), needs), max_size=40))
def test_what_is_prepared_follows_who_comes_and_goes(
    strategy: Strategy, candidates: list[Subordinate], changes: list[tuple[int, tuple[str, ...]]]
) -> None:
    """A strategy chooses among those that are left as if it had never seen others."""
    turns, choose = Turns(), CHOOSES[strategy]
    there = dict.fromkeys(range(len(candidates)))
    ready = Candidates(candidates)
    for number, (who, skills) in enumerate(changes):
        key = f"key-{number % 7}"
        asks = asks_of(a_task(f"t{number}", regions=("eu", "us"), affinity_key=key))._replace(needs=skills)

        chosen = choose(ready, asks, turns)

        assert chosen is choose(Candidates(candidates[place] for place in sorted(there)), asks, turns)
        turns.note(chosen)
        if who in there and len(there) > 1:
            del there[who]
            ready.remove(candidates[who])
        elif who < len(candidates) and who not in there:
            there[who] = None
            ready.add(candidates[who])


def test_by_rendezvous_keys_are_spread_over_the_children() -> None:
    ready = Candidates(a_child(f"d{number:02}") for number in range(50))

    got = Counter(ready.nearest(f"key-{number}").name for number in range(10_000))

    assert len(got) == 50
    assert max(got.values()) < 1.6 * 200
