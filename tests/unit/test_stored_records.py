"""What a coordinator makes of its stored records when it starts: what it believes, puts right and leaves alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from coordinator.agent import CoordinatorBehaviour
from coordinator.records import PAGE
from coordinator.state import DeadLetter, Found, Submission
from core.config.settings import AgentConfig
from core.memory_backend.clock import ServerTime, run_virtual
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.redis_backend.keys import CoordinatorKeys
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.sealing import Sealed
from core.signing import KeyRing, Signed
from core.tasks import Task, TaskStatus, Then
from tests.builders import CLIENT, COORDINATOR, NOW, SECRET, a_message, a_task

S = TaskStatus
CHAIN = (COORDINATOR,)
KEYS = CoordinatorKeys(COORDINATOR.agent_id)
SEALS = KeyRing.from_secret(SECRET, CHAIN).seals
STRANGE = KeyRing.from_secret(b"another secret of that length", CHAIN).seals
NOW_MS = int(NOW.timestamp() * 1000)


def sealed(task: Task, seals: Any = SEALS, kind: Sealed = Sealed.TASK) -> bytes:
    return bytes(seals.seal(kind, task.task_id, task.to_json()))


def ended(task_id: str, status: TaskStatus = S.COMPLETED, **fields: Any) -> Task:
    return a_task(task_id).evolve(**{"status": status, "completed_at": NOW, **fields})


class Start:
    """A coordinator that has read what lay in the store."""

    def __init__(
        self, records: Mapping[str, bytes], *, indexes: Mapping[str, Mapping[str, int]] = {},
        submissions: Mapping[str, bytes] = {}, fetch: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self._given = (records, indexes, submissions)
        self._fetch = fetch
        self.found: tuple[Found, ...] = ()
        run_virtual(self._run(), seed=0)

    async def _run(self) -> None:
        self._store = MemoryStore(ServerTime())
        self._session = self._store.open_session()
        records, indexes, submissions = self._given
        for key, values in ((KEYS.tasks, records), (KEYS.submissions, submissions)):
            for name, value in values.items():
                self.ask("HSET", key, name, value)
        for index, members in indexes.items():
            for name, score in members.items():
                self.ask("ZADD", index, score, name)
        config = AgentConfig()
        behaviour = CoordinatorBehaviour(COORDINATOR.agent_id, config)
        keys = KeyRing.from_secret(SECRET, CHAIN)
        loop = assembled(behaviour, AgentSetup(CHAIN, keys, lambda: MemoryConnection(self._store), config))
        await loop.committer.leaseholder.acquire()
        await behaviour.load(loop)
        self.state = behaviour.state
        assert behaviour._records
        self.found = await behaviour._records.found(self._fetch)

    def ask(self, name: str, *parts: Any) -> Any:
        arguments = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        return self._store.execute(self._session, name, arguments)

    def index(self, key: str) -> list[str]:
        return [name.decode() for name in self.ask("ZRANGE", key, 0, -1)]

    def records(self) -> set[str]:
        return {name.decode() for name in self.ask("HKEYS", KEYS.tasks)}


def opened(*task_ids: str) -> dict[str, dict[str, int]]:
    return {KEYS.open: {task_id: number for number, task_id in enumerate(task_ids)}}


def test_open_tasks_are_read_in_the_order_they_were_submitted() -> None:
    tasks = [a_task(name) for name in ("c", "a", "b")]

    start = Start({task.task_id: sealed(task) for task in tasks}, indexes=opened("c", "a", "b"))

    assert list(start.state.local_tasks.values()) == tasks
    assert (start.index(KEYS.open), start.state.foreign) == (["c", "a", "b"], frozenset())


def test_more_records_than_are_read_at_once_are_all_read() -> None:
    tasks = [a_task(f"t{number:04}") for number in range(PAGE + 1)]

    start = Start({task.task_id: sealed(task) for task in tasks}, indexes=opened(*(task.task_id for task in tasks)))

    assert list(start.state.local_tasks) == [task.task_id for task in tasks]


def test_what_it_has_not_sealed_is_taken_away_and_what_has_ended_or_is_missing_is_no_longer_open() -> None:
    records = {
        "bare": a_task("bare").to_json(), "moved": sealed(a_task("other")),
        "kind": sealed(a_task("kind"), kind=Sealed.CELL),
        "ended": sealed(ended("ended")), "good": sealed(a_task("good")),
    }  # fmt: skip
    indexes = {KEYS.open: {**dict.fromkeys(records, 1), "missing": 1}, KEYS.ended: {"ended": 1}}

    start = Start(records, indexes=indexes)

    assert (list(start.state.local_tasks), start.index(KEYS.open)) == (["good"], ["good"])
    assert start.records() == {"ended", "good"}


def test_what_is_sealed_with_a_key_that_is_not_here_stays_as_it_is_and_does_not_run() -> None:
    records = {
        "foreign": sealed(a_task("foreign"), STRANGE), "dead": sealed(ended("dead", S.FAILED), STRANGE),
        "later": bytes(SEALS.seal(Sealed.TASK, "later", b'{"task_id":"later"}')),
    }  # fmt: skip
    indexes = {KEYS.open: {"foreign": 1, "later": 1}, KEYS.dead: {"dead": 1}}

    start = Start(records, indexes=indexes)

    assert start.state.foreign == {"foreign", "dead", "later"}
    assert (start.state.local_tasks, start.state.dead) == ({}, {})
    assert (start.records(), start.index(KEYS.open), start.index(KEYS.dead)) == (
        {"foreign", "dead", "later"}, ["foreign", "later"], ["dead"],
    )  # fmt: skip


def test_what_no_index_names_is_listed_again_where_it_belongs() -> None:
    records = {
        "open": sealed(a_task("open")), "ended": sealed(ended("ended")), "known": sealed(a_task("known")),
        "done": sealed(ended("done")), "forged": a_task("forged").to_json(),
    }  # fmt: skip
    start = Start(records, indexes={KEYS.open: {"known": 1}, KEYS.ended: {"done": 7}})

    assert set(start.state.local_tasks) == {"open", "known"}
    assert start.index(KEYS.open) == ["known", "open"]
    assert start.ask("ZSCORE", KEYS.ended, "ended") == str(NOW_MS).encode()
    assert start.ask("ZSCORE", KEYS.open, "open") == str(NOW_MS).encode()
    assert start.ask("ZSCORE", KEYS.ended, "done") == b"7"


def test_the_newest_children_of_a_waiting_task_are_vouched_for_by_their_records() -> None:
    parent = a_task("p").evolve(status=S.WAITING, children=("old", "a", "b"), then=Then(spawned=2))
    records = {task.task_id: sealed(task) for task in (parent, ended("old"), ended("a"), a_task("b"))}

    start = Start(records, indexes={**opened("p", "b"), KEYS.ended: {"old": 1, "a": 1}})

    assert start.state.digests == {"a": hashlib.sha256(ended("a").to_json()).hexdigest()}
    assert start.state.families == {"p": {"b"}}


def test_dead_letters_are_read_the_oldest_first_with_the_messages_they_came_with() -> None:
    first, second = ended("first", S.FAILED, submission="5-0"), ended("second", S.ABANDONED, completed_at=None)
    records = {task.task_id: sealed(task) for task in (first, second)} | {"forged": ended("forged", S.FAILED).to_json()}
    indexes = {KEYS.dead: {"second": 2, "first": 1, "forged": 3, "missing": 4}, KEYS.ended: {"first": 1, "second": 1}}

    start = Start(records, indexes=indexes, submissions={"5-0": b"x" * 30})

    assert list(start.state.dead.items()) == [
        ("first", DeadLetter(NOW_MS, len(first.to_json()), "5-0")),
        ("second", DeadLetter(0, len(second.to_json()), None)),
    ]  # fmt: skip
    assert start.state.submissions == {"5-0": Submission(30, died=1)}
    assert (start.index(KEYS.dead), start.records()) == (["first", "second"], {"first", "second"})


def packed(*tasks: Task) -> bytes:
    """A message that submits these tasks, as it is kept."""
    body = a_message(CLIENT, COORDINATOR, "submit_task", tasks=[{"task_id": task.task_id} for task in tasks]).encode()
    return Signed(CLIENT, "12345678", b"0" * 64, body).pack()


@pytest.mark.parametrize(
    ("replays", "next_id", "latest"), [(0, "t.replay1", None), (1, "t.replay2", 1), (9, "t.replay10", 9)]
)
def test_a_dead_letter_is_found_with_its_message_and_its_latest_replay(replays: int, next_id: str, latest: Any) -> None:
    dead = ended("t", S.FAILED, submission="5-0")
    copies = [ended(f"t.replay{number}") for number in range(1, replays + 1)]
    message = SEALS.seal(Sealed.SUBMISSION, "5-0", packed(a_task("other"), dead))

    records = {task.task_id: sealed(task) for task in (dead, *copies)}
    start = Start(records, submissions={"5-0": message}, fetch=("t", "nobody"))

    [found, none] = start.found
    assert (found.task_id, found.record, found.next_id) == ("t", dead.to_json(), next_id)
    assert found.original is not None
    assert bytes(found.original) == b'{"task_id":"t"}'
    assert found.latest == (copies[latest - 1].to_json() if latest else None)
    assert none == Found("nobody")


def test_a_message_that_is_forged_or_gone_is_none() -> None:
    dead, other = ended("t", S.FAILED, submission="5-0"), ended("u", S.FAILED, submission="6-0")

    start = Start({"t": sealed(dead), "u": sealed(other)}, submissions={"5-0": packed(dead)}, fetch=("t", "u"))

    assert [found.original for found in start.found] == [None, None]
