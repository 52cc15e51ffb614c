"""Whatever is in a message, in a heartbeat or in a record: no step fails, and what is right beside it takes effect.

Each field of each item that a tier takes is given every value below, one at a time; then several at once, by chance.
What comes in passes the same checks as in an inbox, since those are the border that rules rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given, settings
from msgspec import Raw, Struct, structs, to_builtins

import coordinator.rules
import distributor.rules
import worker.rules
from coordinator.rules import recall as recall_coordinator
from coordinator.state import CoordinatorState, Fetched, Found
from core.a2a_messaging import A2AMessage
from core.errors import BadTask, PeerError
from core.reports import AttemptReport, GivenAnswer, ProgressReport, QuestionsWanted, SchedulesWanted, TaskReport
from core.roles import ALLOWED, Action, Address, Role
from core.runtime.outbox import Outbox
from core.schedules import Schedule
from core.signing import KeyRing
from core.status_reports import MAX_SKILLS, Beat, status_report
from core.step import Keyed, Received, Sending, Step
from core.tasks import NULL, Task
from distributor.rules import recall as recall_distributor
from distributor.state import DistributorState
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, SECRET, WORKER, a_batch, a_beat, a_message, a_task
from worker.rules import WorkerState

CHAIN = (COORDINATOR, DISTRIBUTOR)
DISTRIBUTORS = Outbox(CHAIN, KeyRing.from_secret(SECRET, CHAIN))
ABSENT = object()
OPERATOR = Address(Role.OPERATOR, "night-shift")
HOSTILE: list[Any] = [
    ABSENT, None, True, -1, 0, 2**53, 2**63 - 1, -(2**63), 1e308, -0.5, "", "garbage", "\x1b[31m\n", "x" * 270_000,
    "2026-01-01T00:00:00", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "in_progress", "pending",
    "delegated", "waiting", [], [1], [None, "t"], {}, {"a": {"b": [None]}}, ["task:sum"] * 30_000, [["a", 1]],
]  # fmt: skip


def names(report: type[Struct]) -> list[str]:
    return [field.encode_name for field in structs.fields(report)]


WORKERS_TASK = {"task_id": "t", "attempt": 1}
ERROR = {"type": "ValueError", "message": "no", "retryable": True}
CHILD = {"task_id": "c", "task_type": "sum"}
ATTEMPT = dict.fromkeys(names(AttemptReport)) | WORKERS_TASK | {"status": "completed", "run_ms": 1.5}
TASK = dict.fromkeys(names(TaskReport)) | {"task_id": "t", "status": "completed", "attempt": 1}
WAIT = {"id": "i", "node": "ask", "asks": {"sure": True}, "expires_s": 1, "default": False}
SUSPENDED = {"status": "suspended", "children": [CHILD], "waits": [WAIT, {"id": "d", "children": ["c"]}]}
ANSWER = dict.fromkeys(names(GivenAnswer)) | {"task_id": "asking", "interrupt_id": "i", "value": "yes"}
SCHEDULE = dict.fromkeys(names(Schedule)) | {"name": "s", "task": CHILD, "every_s": 60}
FIELDS = Task(task_type="sum").to_dict() | orjson.loads(a_task().to_json())


class Told(NamedTuple):
    """One kind of item, as it is when it is right."""

    sender: Address
    action: Action
    item: Any


TO_COORDINATOR = [
    Told(CLIENT, Action.SUBMIT_TASK, {**FIELDS, "task_id": "new"}),
    *(Told(CLIENT, a, "t") for a in (Action.WATCH_TASK, Action.CANCEL_TASK, Action.REPLAY_TASK, Action.PURGE_TASK)),
    Told(CLIENT, Action.ANSWER_QUESTION, ANSWER),
    Told(CLIENT, Action.LIST_QUESTIONS, dict.fromkeys(names(QuestionsWanted)) | {"listing": "l", "limit": 9}),
    Told(CLIENT, Action.SET_SCHEDULE, SCHEDULE),
    Told(CLIENT, Action.LIST_SCHEDULES, dict.fromkeys(names(SchedulesWanted)) | {"listing": "l", "limit": 9}),
    *(Told(CLIENT, a, "s") for a in (Action.PAUSE_SCHEDULE, Action.RESUME_SCHEDULE, Action.REMOVE_SCHEDULE)),
    Told(OPERATOR, Action.SET_STRATEGY, {"strategy": "random", "distributor": "distributor-1"}),
    Told(OPERATOR, Action.SET_QUOTA, {"name": "type:sum", "per_minute": 60, "at_once": 9}),
    Told(DISTRIBUTOR, Action.TASK_RESULT, TASK),
    Told(DISTRIBUTOR, Action.TASK_RESULT, {**TASK, "status": "failed", "error": ERROR, "errors": [ERROR]}),
    Told(DISTRIBUTOR, Action.TASK_RESULT, {**TASK, "status": "delegated", "children": [CHILD], "then": {}}),
    Told(DISTRIBUTOR, Action.TASK_RESULT, {**TASK, **SUSPENDED}),
    Told(DISTRIBUTOR, Action.TASK_RESULT, {**TASK, "status": "returned"}),
    Told(DISTRIBUTOR, Action.TASK_RESULT, {**TASK, "status": "delegated", "children": [{**FIELDS, "task_id": "c"}]}),
]
TO_DISTRIBUTOR = [
    Told(COORDINATOR, Action.ASSIGN_TASK, {**FIELDS, "task_id": "new"}),
    *(Told(COORDINATOR, a, "t") for a in (Action.CANCEL_TASK, Action.RETURN_TASK, Action.SET_STRATEGY)),
    Told(WORKER, Action.TASK_RESULT, ATTEMPT),
    Told(WORKER, Action.TASK_RESULT, {**ATTEMPT, "status": "failed", "error": ERROR}),
    Told(WORKER, Action.TASK_RESULT, {**ATTEMPT, "status": "delegated", "children": [CHILD], "then": {}}),
    Told(WORKER, Action.TASK_RESULT, {**ATTEMPT, **SUSPENDED}),
    Told(WORKER, Action.TASK_RESULT, {**ATTEMPT, "status": "returned"}),
    Told(WORKER, Action.TASK_PROGRESS, dict.fromkeys(names(ProgressReport)) | WORKERS_TASK | {"progress": {}}),
]
TO_WORKER = [
    Told(DISTRIBUTOR, Action.ASSIGN_TASK, {**FIELDS, "task_id": "new", "attempt": 1}),
    *(Told(DISTRIBUTOR, a, WORKERS_TASK) for a in (Action.CANCEL_TASK, Action.RETURN_TASK)),
]
BEAT = {"kinds": [], **to_builtins(Beat(beat=2, concurrency=2, capacity=9, capabilities=("task:sum",)))}


def variants(item: Any) -> Iterator[Any]:
    """The item with each of its fields, and itself as a whole, replaced by each of the values."""
    yield from (value for value in HOSTILE if value is not ABSENT)
    for name in item if isinstance(item, dict) else ():
        for value in HOSTILE:
            rest = {key: kept for key, kept in item.items() if key != name and kept is not None}
            yield rest if value is ABSENT else {**rest, name: value}
        if name in ("children", "waits") and item[name]:
            yield from ({**item, name: [variant]} for variant in variants(item[name][0]))


def arrived(sender: Address, recipient: Address, action: str, number: int, **payload: Any) -> Received | None:
    """The message as an inbox would give it; None: it refuses it."""
    body = a_message(sender, recipient, action, number=number, **payload).encode()
    try:
        message = A2AMessage.decode(body)
        status = status_report(sender.role, message.action, message.payload)
    except PeerError:
        return None
    return Received(sender, message, b"1-1", None, status)


def heard(sender: Address, recipient: Address, payload: dict[str, Any]) -> Received | None:
    try:
        status = status_report(sender.role, Action.BEAT, payload)
    except PeerError:
        return None
    said = {name: value for name, value in payload.items() if name != "action"}
    return Received(sender, a_message(sender, recipient, Action.BEAT, incarnation=1, **said), b"", None, status)


def decide(rules: Any, state: Any, batch: Any) -> Step:
    """What the tier's graph does, without LangGraph, which is most of the cost of a run."""
    step = Step()
    rules.receive(state, batch, step)
    if batch.beating:
        rules.survey(state, batch, step)
    rules.dispatch(state, batch, step)
    return step


def signed(item: bytes, recipient: Address) -> bytes:
    """What of an item is signed by a distributor, whose items go with what others have told it."""
    return bytes(DISTRIBUTORS._with_key(item, recipient) if isinstance(item, Keyed) else item)


class Tier:
    """An agent that has a task of everybody's, `t`, and one that nobody is hostile about, `good`."""

    def __init__(self) -> None:
        self.later_s = 0.0
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def run(self, batch: Any) -> Step:
        raise NotImplementedError

    def take(self, *messages: Received, **fields: Any) -> Step:
        step = self.run(a_batch(*messages, later_s=self.later_s, **fields))
        for sending, items in step.sends.items():
            assert all(orjson.loads(signed(item, sending.recipient)) is not ... for item in items)
        orjson.dumps(list(step.extras.values()))
        assert all(bytes(rejected.item) for rejected in step.rejected)
        return step

    def looks(self) -> None:
        """Time passes: whatever was taken in must not hurt then either."""
        for _ in range(2):
            self.later_s += 3
            self.take()


class Top(Tier):
    def begin(self) -> None:
        self.state = CoordinatorState("coordinator-1", max_tree_tasks=100)
        self.take(beats=[a_beat(DISTRIBUTOR, COORDINATOR, capacity=9, capabilities=["task:sum"])])
        tasks = [orjson.loads(a_task(task_id, backoff_s=0).to_json()) for task_id in ("t", "good", "asking")]
        self.take(*filter(None, [arrived(CLIENT, COORDINATOR, Action.SUBMIT_TASK, 1, tasks=tasks)]))
        asking = {"task_id": "asking", "status": "suspended", "attempt": 1, "waits": [{"id": "i", "asks": "sure?"}]}
        self.take(*filter(None, [arrived(DISTRIBUTOR, COORDINATOR, Action.TASK_RESULT, 1, tasks=[asking])]))
        assert self.state.local_tasks["asking"].waits

    def run(self, batch: Any) -> Step:
        return decide(coordinator.rules, self.state, batch)

    def told_well(self) -> Received | None:
        good = {"task_id": "good", "status": "completed", "attempt": 1, "result": 7}
        return arrived(DISTRIBUTOR, COORDINATOR, Action.TASK_RESULT, 90, tasks=[good])

    def is_well(self, step: Step) -> bool:
        return "good" not in self.state.local_tasks and any(
            b'"good"' in item for all in step.sends.values() for item in all
        )


class Middle(Tier):
    def begin(self) -> None:
        self.state = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)
        self.take(beats=[a_beat(WORKER, DISTRIBUTOR, capabilities=["task:sum"], concurrency=4)])
        tasks = [orjson.loads(a_task(task_id, root_id=task_id, backoff_s=0).to_json()) for task_id in ("t", "good")]
        self.take(*filter(None, [arrived(COORDINATOR, DISTRIBUTOR, Action.ASSIGN_TASK, 1, tasks=tasks)]))

    def run(self, batch: Any) -> Step:
        return decide(distributor.rules, self.state, batch)

    def told_well(self) -> Received | None:
        good = {"task_id": "good", "status": "completed", "attempt": 1, "result": 7}
        return arrived(WORKER, DISTRIBUTOR, Action.TASK_RESULT, 90, tasks=[good])

    def is_well(self, step: Step) -> bool:
        return "good" not in self.state.local_tasks and any(
            b'"good"' in item for all in step.sends.values() for item in all
        )


class Bottom(Tier):
    def begin(self) -> None:
        self.state = WorkerState("worker-1", distributor=DISTRIBUTOR)
        task = orjson.loads(a_task("t", attempt=1).to_json())
        self.take(*filter(None, [arrived(DISTRIBUTOR, WORKER, Action.ASSIGN_TASK, 1, tasks=[task])]))

    def run(self, batch: Any) -> Step:
        worker.rules.receive(self.state, batch, step := Step())
        worker.rules.report(self.state, batch, step)
        return step

    def told_well(self) -> Received | None:
        good = orjson.loads(a_task("good", attempt=1).to_json())
        return arrived(DISTRIBUTOR, WORKER, Action.ASSIGN_TASK, 90, tasks=[good])

    def is_well(self, step: Step) -> bool:
        return "good" in self.state.local_tasks


TIERS: list[tuple[Callable[[], Any], Address, list[Told]]] = [
    (Top, COORDINATOR, TO_COORDINATOR), (Middle, DISTRIBUTOR, TO_DISTRIBUTOR), (Bottom, WORKER, TO_WORKER),
]  # fmt: skip
KINDS = [
    pytest.param(tier, me, told, id=f"{told.sender.role}-{told.action}") for tier, me, all in TIERS for told in all
]


def test_the_kinds_are_all_that_may_be_said() -> None:
    said = {(told.sender.role, me.role, told.action) for _, me, all in TIERS for told in all}
    of_itself = {Action.AGENT_JOINED, Action.AGENT_LEFT, Action.CAPACITY, Action.BEAT}
    may = {(*link, action) for link, actions in ALLOWED.items() for action in actions - of_itself}
    to_askers = {message for message in may if message[1] in (Role.CLIENT, Role.OPERATOR)}
    alike = {message for message in may if message[0] is Role.OPERATOR}
    assert said | alike == may - to_askers


@pytest.mark.parametrize(("tier", "me", "told"), KINDS)
def test_an_item_that_breaks_its_shape_costs_no_step_and_none_of_the_items_beside_it(
    tier: Callable[[], Any], me: Address, told: Told
) -> None:
    for hostile in variants(told.item):
        agent = tier()
        before = arrived(told.sender, me, told.action, 2, tasks=[hostile])
        step = agent.take(*filter(None, [before, agent.told_well()]))
        assert agent.is_well(step), hostile
        agent.looks()


@pytest.mark.parametrize(("tier", "me", "told"), KINDS)
def test_items_with_several_wrong_fields_cost_no_step_either(tier: Callable[[], Any], me: Address, told: Told) -> None:
    if not isinstance(told.item, dict):
        return
    values = st.sampled_from([value for value in HOSTILE if value is not ABSENT and value != "x" * 270_000])
    names = st.sampled_from(sorted(told.item))

    @settings(max_examples=30, deadline=None, database=None)
    @given(st.lists(st.dictionaries(names, values, max_size=6), max_size=4))
    def holds(changes: list[dict[str, Any]]) -> None:
        items = [
            {**{name: value for name, value in told.item.items() if value is not None}, **change} for change in changes
        ]
        agent = tier()
        before = arrived(told.sender, me, told.action, 2, tasks=items)
        assert agent.is_well(agent.take(*filter(None, [before, agent.told_well()])))
        agent.looks()

    holds()


@pytest.mark.parametrize(("tier", "me", "sender"), [(Top, COORDINATOR, DISTRIBUTOR), (Middle, DISTRIBUTOR, WORKER)])
def test_what_a_child_says_of_itself_costs_no_step_and_no_work(
    tier: Callable[[], Any], me: Address, sender: Address
) -> None:
    for payload in variants(BEAT):
        if not isinstance(payload, dict):
            continue
        agent = tier()
        said = {key: value for key, value in payload.items() if key != "action"}
        agent.take(*filter(None, [arrived(sender, me, Action.AGENT_JOINED, 2, **said)]))
        if sender.role is Role.DISTRIBUTOR:
            agent.take(*filter(None, [arrived(sender, me, Action.CAPACITY, 3, **said)]))
        agent.take(beats=list(filter(None, [heard(sender, me, said)])))
        assert agent.is_well(agent.take(*filter(None, [agent.told_well()])))
        agent.looks()


def test_what_is_said_of_all_workers_together_is_small_enough_to_be_said_on() -> None:
    skills = [f"task:{n:0100}" for n in range(MAX_SKILLS[Role.WORKER] + 1)]
    with pytest.raises(PeerError):
        status_report(Role.WORKER, Action.BEAT, {**BEAT, "capabilities": skills})
    status_report(Role.DISTRIBUTOR, Action.BEAT, {**BEAT, "capabilities": skills})
    agent = Middle()
    for start in range(3):  # under ever new names of types
        attempts = {f"type-{start}-{n}": 3 for n in range(MAX_SKILLS[Role.WORKER])}
        said = heard(WORKER, DISTRIBUTOR, {**BEAT, "beat": 3 + start, "attempts": attempts})
        assert said
        agent.take(beats=[said])
    assert len(agent.state.max_attempts) <= 16_384


@pytest.mark.parametrize("status", ["pending", "in_progress", "waiting", "completed"])
def test_whatever_a_record_says_that_can_be_read_at_all_no_later_step_fails_for_it(status: str) -> None:
    for fields in variants({**FIELDS, "status": status}):
        try:
            task = Task.from_json(orjson.dumps(fields))
        except BadTask:
            continue
        top, middle = CoordinatorState("coordinator-1"), Middle()
        recall_coordinator(top, [task], {}, 0)
        middle.state = DistributorState("distributor-1", coordinator=COORDINATOR, incarnation=1)
        recall_distributor(middle.state, [task], 0)
        one = Top()
        one.state = top
        for agent in (one, middle):
            agent.looks()


def test_a_dead_letter_is_replayed_whatever_its_message_says_or_it_stays() -> None:
    for original in variants(FIELDS):
        agent = Top()
        record = a_task("t", status="failed", owner=str(CLIENT)).to_json()
        found = Found("t", record, Raw(orjson.dumps(original)) if isinstance(original, dict) else NULL, "t.replay1")
        agent.take(events=[Fetched(Sending(CLIENT, Action.TASK_ACCEPTED, "r"), (found,))])
        agent.looks()
