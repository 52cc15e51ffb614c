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
from core.redis_backend.keys import CoordinatorKeys, keys_of
from core.runtime.agent_setup import AgentSetup
from core.runtime.assembly import assembled
from core.sealing import Sealed
from core.signing import KeyRing, Signed
from core.step import Step
from core.tasks import NULL, Task, TaskStatus, Then
from tests.builders import CLIENT, COORDINATOR, NOW, SECRET, a_message, a_task

S = TaskStatus
CHAIN = (COORDINATOR,)
KEYS = CoordinatorKeys(COORDINATOR.agent_id)
SEALS = KeyRing.from_secret(SECRET, CHAIN).seals
STRANGE = KeyRing.from_secret(b"another secret of that length", CHAIN).seals
OLD_SECRET = b"the root secret before that"
NOW_MS = int(NOW.timestamp() * 1000)


def sealed(task: Task, seals: Any = SEALS, kind: Sealed = Sealed.TASK) -> bytes:
    return bytes(seals.seal(kind, task.task_id, task.to_json()))


def ended(task_id: str, status: TaskStatus = S.COMPLETED, **fields: Any) -> Task:
    return a_task(task_id).evolve(**{"status": status, "completed_at": NOW, **fields})


class Start:
    """A coordinator that has read what lay in the store."""

    def __init__(
        self, records: Mapping[Any, bytes], *, indexes: Mapping[str, Mapping[str, int]] = {},
        submissions: Mapping[Any, bytes] = {}, fetch: tuple[str, ...] = (), previous: bytes | None = None,
    ) -> None:  # fmt: skip
        self._given = (records, indexes, submissions)
        self._fetch = fetch
        self._keys = KeyRing.from_secret(SECRET, CHAIN, previous)
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
        loop = assembled(behaviour, AgentSetup(CHAIN, self._keys, lambda: MemoryConnection(self._store), config))
        await loop.committer.leaseholder.acquire()
        await behaviour.load(loop)
        self.state = behaviour.state
        assert behaviour._records
        self.found = await behaviour._records.found(self._fetch)
        await loop.writer.commit(Step())  # as the next turn does, which writes down what was put aside

    def ask(self, name: str, *parts: Any) -> Any:
        arguments = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        return self._store.execute(self._session, name, arguments)

    def index(self, key: str) -> list[str]:
        return [name.decode() for name in self.ask("ZRANGE", key, 0, -1)]

    def records(self) -> set[str]:
        return {name.decode() for name in self.ask("HKEYS", KEYS.tasks)}

    def contents(self, *keys: str) -> list[dict[str, bytes]]:
        """What lies in each of these hashes."""
        flat = [self.ask("HGETALL", key) for key in keys]
        return [{name.decode(): value for name, value in zip(one[::2], one[1::2], strict=True)} for one in flat]

    def quarantined(self) -> list[dict[str, str]]:
        """What was put aside."""
        fields = [flat for _, flat in self.ask("XRANGE", keys_of(CHAIN).quarantine, "-", "+")]
        return [dict(zip(map(bytes.decode, one[::2]), map(bytes.decode, one[1::2]), strict=True)) for one in fields]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    """What was warned of: the sentence, and the facts beside it."""
    facts = ("action", "records", "index")
    ours = [vars(one) | {"words": one.getMessage()} for one in caplog.records if one.name == "coordinator.records"]
    return [(one["words"], {name: one[name] for name in facts if name in one}) for one in ours]


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


def test_what_no_index_names_is_listed_again_where_it_belongs(caplog: pytest.LogCaptureFixture) -> None:
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
    assert warnings_in(caplog)[0] == (
        "2 tasks were in no index, and were added to theirs",
        {"action": "tasks_listed_anew"},
    )


def test_the_newest_children_of_a_waiting_task_are_vouched_for_by_their_records() -> None:
    parent = a_task("p").evolve(status=S.WAITING, children=("old", "a", "b"), then=Then(spawned=2))
    goes_on = a_task("q").evolve(children=("done",), then=Then(spawned=1))
    tasks = (parent, ended("old"), ended("a"), a_task("b"), goes_on, ended("done"))
    records = {task.task_id: sealed(task) for task in tasks}

    start = Start(records, indexes={**opened("p", "b", "q"), KEYS.ended: {"old": 1, "a": 1, "done": 1}})

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
    ("replays", "next_id", "latest"),
    [(0, "t.replay1", None), (1, "t.replay2", 1), (9, "t.replay10", 9), (17, "t.replay18", 17)],
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
    records = {task.task_id: sealed(task) for task in (dead, other, ended("v", S.FAILED))}

    start = Start(records, submissions={"5-0": packed(dead)}, fetch=("t", "u", "v"))

    assert [(found.record is None, found.original) for found in start.found] == [(False, NULL)] * 3
    [put_aside] = start.quarantined()
    assert (put_aside["from"], put_aside["entry"]) == (KEYS.submissions, "5-0")


def test_while_the_secret_is_changed_what_only_the_old_one_verifies_is_sealed_anew() -> None:
    old = KeyRing.from_secret(OLD_SECRET, CHAIN).seals
    records = {"foreign": sealed(a_task("f"), STRANGE), "old": sealed(a_task("old"), old), "new": sealed(a_task("new"))}
    messages = {"4-0": b"forged", "5-0": old.seal(Sealed.SUBMISSION, "5-0", packed(a_task("old")))}

    start = Start(records, indexes=opened(*records), submissions=messages, previous=OLD_SECRET)

    kept = dict(zip((KEYS.tasks, KEYS.submissions), start.contents(KEYS.tasks, KEYS.submissions), strict=True))
    assert kept[KEYS.tasks] == {**records, "old": sealed(a_task("old"))}
    assert kept[KEYS.submissions] == {**messages, "5-0": SEALS.seal(Sealed.SUBMISSION, "5-0", packed(a_task("old")))}
    assert set(start.state.local_tasks) == {"old", "new"}


def test_what_is_taken_away_is_put_aside_with_the_reason_and_told_to_the_operator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged = a_task("forged").to_json()

    records = {"forged": forged, "ended": sealed(ended("ended"))}
    start = Start(records, indexes={**opened("forged", "ended"), KEYS.ended: {"ended": 1}})

    [put_aside] = start.quarantined()
    assert (put_aside["from"], put_aside["body"]) == (KEYS.tasks, forged.decode())
    assert put_aside["detail"] == "this coordinator did not seal it, so it is not trusted"
    assert warnings_in(caplog) == [
        (
            "removed 2 records that were missing or forged, or of ended tasks",
            {"action": "records_put_right", "index": KEYS.open, "records": 2},
        )
    ]


def test_tasks_that_do_not_run_because_of_their_key_are_told_to_the_operator_with_the_cure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = {"foreign": sealed(a_task("foreign"), STRANGE), "dead": sealed(ended("dead", S.FAILED), STRANGE)}

    Start(records, indexes={**opened("foreign"), KEYS.dead: {"dead": 1}, KEYS.ended: {"dead": 1}})

    [(words, facts)] = warnings_in(caplog)
    assert words == (
        "2 tasks are sealed with an unknown key, or come from another release: they are kept, but"
        " do not run. Has A2A_TOKEN_SECRET changed? Then set the previous one as A2A_PREVIOUS_SECRET."
    )
    assert facts == {"action": "records_foreign", "records": 2}


def test_a_start_at_which_all_is_well_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    start = Start({"t": sealed(a_task("t"))}, indexes=opened("t"))
    assert (warnings_in(caplog), start.quarantined()) == ([], [])


@pytest.mark.parametrize("count", [PAGE, PAGE + 1])
def test_forged_records_are_all_taken_away_however_many_there_are(count: int) -> None:
    names = [f"t{number:04}" for number in range(count)]

    start = Start({name: a_task(name).to_json() for name in names}, indexes=opened(*names, "missing"))

    assert (start.index(KEYS.open), start.records()) == ([], set())
    assert start.quarantined()


def test_more_records_than_are_listed_at_once_are_all_listed_and_each_once(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"t{number:04}" for number in range(PAGE + 1)]

    start = Start({name: sealed(a_task(name)) for name in names})

    assert set(start.state.local_tasks) == set(start.index(KEYS.open)) == set(names)
    added = "tasks were in no index, and were added to theirs"
    assert [words for words, _ in warnings_in(caplog)] == [f"500 {added}", f"1 {added}"]


def test_names_that_are_no_text_hinder_nothing() -> None:
    start = Start({b"\xff": sealed(a_task("x")), "t": sealed(a_task("t"))}, submissions={b"\xff": b"x"})

    assert list(start.state.local_tasks) == ["t"]
    assert start.index(KEYS.open) == ["t"]
