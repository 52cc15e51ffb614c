"""No task starves in the dispatch queue, and tenants that wait share its turns by their weights, whatever comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.dispatch_queue import OVERDUE_EVERY, OVERDUE_MS, PATIENCE_MS, DispatchQueue
from core.tasks import Priority, Task
from tests.builders import a_task

START_MS = 1_767_268_800_000
NAMES = ("a", "b", "c", "d")
TYPES = ("sum", "count", "exotic")


@dataclass
class Came:
    """A task that was pushed, and what happened until it was popped."""

    task: Task
    due_ms: int
    overdue_turns: int = 0  #: turns since it was overdue and could be served
    allowed_turns: int | None = None  #: the bound, from the moment when it was


@dataclass
class Run:
    """A queue, and a model of what waits in it."""

    weights: dict[str, int]
    queue: DispatchQueue = field(default_factory=DispatchQueue)
    now_ms: int = START_MS
    waiting: dict[str, Came] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        for tenant, weight in self.weights.items():
            self.queue.weigh(tenant, weight)

    def push(self, tenant: str, priority: Priority, root: int | None, task_type: str) -> None:
        self.number += 1
        task_id = f"t{self.number}"
        below: dict[str, Any] = {} if root is None else {"parent_id": f"root-{root}", "root_id": f"root-{root}"}
        created = datetime.fromtimestamp(self.now_ms / 1000, UTC)
        task = a_task(task_id, task_type=task_type, priority=priority, tenant=tenant, created_at=created).evolve(
            **below
        )
        self.queue.push(task)
        self.waiting[task_id] = Came(task, self.now_ms + PATIENCE_MS[priority])

    def turn(self, served: set[str]) -> str | None:
        """One turn, in which tasks of these types can be served, and of the tenants that are not held."""
        self.queue.wake(self.now_ms)
        can = [
            came
            for came in self.waiting.values()
            if came.task.task_type in served and came.task.tenant not in self.queue.held_tenants
        ]
        task_id = self.queue.pop(lambda needs: needs[0].removeprefix("task:") in served)
        assert (task_id is None) == (not can), "a turn is taken exactly if somebody can take one"
        if task_id is None:
            return None
        taken = self.waiting.pop(task_id)
        assert taken in can
        return task_id


pushes = st.tuples(
    st.just("push"), st.sampled_from(NAMES), st.sampled_from(Priority), st.none() | st.integers(0, 2),
    st.sampled_from(TYPES[:2]),
)  # fmt: skip
actions = st.lists(
    pushes
    | st.tuples(st.just("many"), st.sampled_from(NAMES), st.sampled_from(Priority), st.integers(1, 40))
    | st.tuples(st.just("time"), st.integers(0, 90_000))
    | st.tuples(st.just("turns"), st.integers(1, 30)),
    max_size=60,
)
weights = st.fixed_dictionaries({name: st.integers(1, 1_000) for name in NAMES})


@settings(max_examples=80, deadline=None)
@given(weights, actions)
def test_an_overdue_task_waits_for_a_bounded_number_of_turns(shares: dict[str, int], steps: list[Any]) -> None:
    run = Run(shares)
    for kind, *given_with in steps:
        if kind == "push":
            run.push(*given_with)
        elif kind == "many":
            tenant, priority, count = given_with
            for _ in range(count):
                run.push(tenant, priority, 9, "sum")
        elif kind == "time":
            run.now_ms += given_with[0]
        else:
            for _ in range(given_with[0]):
                bounded_turn(run)
                run.now_ms += 50
    while run.waiting:
        bounded_turn(run)
        run.now_ms += 1_000


@settings(max_examples=40, deadline=None)
@given(
    backlog=st.integers(1, 12), priority=st.sampled_from(Priority), rate=st.sampled_from([1, 2, 5]),
    flood=st.lists(
        st.tuples(st.sampled_from(NAMES[1:]), st.sampled_from(Priority), st.none() | st.integers(0, 5)),
        min_size=2, max_size=6,
    ),
    shares=st.fixed_dictionaries({"a": st.just(1), **{name: st.integers(1, 1_000) for name in NAMES[1:]}}),
)  # fmt: skip
def test_the_lightest_tenant_waits_no_longer_than_is_stated_while_others_submit_more_than_can_be_served(
    backlog: int, priority: Priority, rate: int, flood: list[tuple[str, Priority, int | None]], shares: dict[str, int]
) -> None:
    run = Run(shares)
    for _ in range(backlog):
        run.push("a", priority, None, "sum")
    last = run.waiting[f"t{run.number}"]
    before: int | None = None
    turns = 0
    while last.task.task_id in run.waiting:
        for number in range(rate + 1):
            tenant, others_priority, root = flood[(turns + number) % len(flood)]
            run.push(tenant, others_priority, root, TYPES[number % 2])
        for _ in range(rate):
            if before is None and last.due_ms + OVERDUE_MS <= run.now_ms:
                before = sum(other.due_ms <= last.due_ms for other in run.waiting.values()) - 1
            turns += 1
            if run.turn(set(TYPES)) == last.task.task_id:
                break
            run.now_ms += 1_000 // rate
    waited_ms = run.now_ms - START_MS
    assert waited_ms <= PATIENCE_MS[priority] + OVERDUE_MS + OVERDUE_EVERY * ((before or 0) + 1) * 1_000 // rate


def bounded_turn(run: Run) -> None:
    """A turn that keeps the bound of every task, which is known when that task is overdue."""
    for came in run.waiting.values():
        if came.allowed_turns is None and came.due_ms + OVERDUE_MS <= run.now_ms:
            before = sum(other.due_ms <= came.due_ms for other in run.waiting.values()) - 1
            came.allowed_turns = OVERDUE_EVERY * (before + 1)
    if run.turn(set(TYPES)) is None:
        return
    for came in run.waiting.values():
        if came.allowed_turns is not None:
            came.overdue_turns += 1
            assert came.overdue_turns < came.allowed_turns


@settings(max_examples=50, deadline=None)
@given(weights, st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(50, 150))
def test_tenants_get_turns_by_their_weights_and_their_roots_by_turns(
    shares: dict[str, int], roots: list[int], turns: int
) -> None:
    names = NAMES[: len(roots)]
    run = Run(shares)
    for name, count in zip(names, roots, strict=True):
        for root in range(count):
            for number in range(turns):
                run.push(name, Priority.NORMAL, root, TYPES[number % 2])
    of_tenants, of_roots = dict.fromkeys(names, 0), Counter[tuple[str, str]]()
    tasks = {task_id: came.task for task_id, came in run.waiting.items()}
    for _ in range(turns):
        task = tasks[run.turn(set(TYPES)) or ""]
        of_tenants[task.tenant or ""] += 1
        of_roots[task.tenant or "", task.root_id or ""] += 1
        for one, other in combinations(names, 2):
            apart = abs(of_tenants[one] * shares[other] - of_tenants[other] * shares[one])
            assert apart <= shares[one] + shares[other]
    for name, count in zip(names, roots, strict=True):
        had = [of_roots[name, f"root-{root}"] for root in range(count)]
        assert max(had) - min(had) <= 1


held = st.tuples(st.just("hold"), st.sampled_from(NAMES)) | st.tuples(st.just("release"), st.sampled_from(NAMES))
served = st.tuples(st.just("turn"), st.sets(st.sampled_from(TYPES)))


@settings(max_examples=120, deadline=None)
@given(st.lists(pushes | held | served | st.tuples(st.just("remove"), st.integers(0, 30)), max_size=80), weights)
def test_a_turn_is_taken_by_whoever_can_be_served_and_by_nobody_else(steps: list[Any], shares: dict[str, int]) -> None:
    run = Run(shares)
    for kind, *given_with in steps:
        if kind == "push":
            run.push(*given_with)
        elif kind == "hold":
            run.queue.hold_tenant(*given_with)
        elif kind == "release":
            run.queue.release_tenant(*given_with)
        elif kind == "remove":
            task_id = f"t{given_with[0]}"
            assert run.queue.remove(task_id) == (run.waiting.pop(task_id, None) is not None)
        else:
            run.turn(given_with[0])
        run.now_ms += 20_000
    for name in NAMES:
        run.queue.release_tenant(name)
    while run.waiting:
        run.turn(set(TYPES))
    assert (run.queue.lanes, run.queue.tenants, run.queue.weight) == (({}, {}, {}), {}, 0)
