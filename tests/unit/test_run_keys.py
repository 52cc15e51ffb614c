"""Who can sign what a run tells, who can check it, and what a reader takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given
from msgspec import Raw

from core.agent_run import RunOptions
from core.errors import MalformedMessage
from core.redis_backend.keys import inbox_of
from core.reports import given_run_key
from core.roles import Action, Address, Role
from core.run_keys import AttemptKey, RunKey
from core.run_stream import EntryCheck, chunks_of, entry_of
from core.runtime.outbox import Outbox
from core.signing import KeyRing, Signed, key_id_of
from core.step import Keyed, Sending, Step, Table
from core.tasks import Task
from distributor.rules import recall
from tests.builders import CLIENT, COORDINATOR, DISTRIBUTOR, SECRET, WORKER, a_task, message_to
from tests.coordinator_steps import a_coordinator, submitted
from tests.coordinator_steps import take as take_in
from tests.distributor_steps import WORKER_2, a_distributor, outcome, take, to_me

K, D, W = (COORDINATOR,), (COORDINATOR, DISTRIBUTOR), (COORDINATOR, DISTRIBUTOR, WORKER)
OLD_SECRET = b"the root secret before the rotation"
STREAMED = RunOptions(stream=["updates"])


def ring(chain: Sequence[Address], secret: bytes = SECRET, previous: bytes | None = None) -> KeyRing:
    return KeyRing.from_secret(secret, tuple(chain), previous)


def sessions_of(client: Address, *names: str) -> list[Address]:
    return [Address(client.role, f"{client.agent_id}~{name}") for name in names]


def sent_by(chain: Sequence[Address], item: bytes, task: Task, recipient: Address, **rings: Any) -> Any:
    """The item as its recipient gets it."""
    step = Step()
    step.send(Sending(recipient, Action.ASSIGN_TASK), Keyed.of(item, task))
    [(_, key, *rest)] = Outbox(tuple(chain), ring(chain, **rings)).commands(step, 1)
    assert key == inbox_of(recipient, tuple(chain))
    [told] = orjson.loads(Signed.from_fields(list(rest[-8:])).body)["payload"]["tasks"]  # type: ignore[arg-type]
    return told


def handed_down(task: Task, **rings: Any) -> AttemptKey:
    """The key that a worker gets with an attempt at a task, over its distributor."""
    at_distributor = Task.from_json(orjson.dumps(sent_by(K, task.to_json(), task, DISTRIBUTOR, **rings)))
    attempt = at_distributor.evolve(attempt=task.attempt)
    at_worker = sent_by(D, attempt.evolve(run_key=None).to_json(), attempt, WORKER, **rings)["run_key"]
    [key] = starmap(AttemptKey, ring(W, **rings).unwrapped(at_worker))
    return key


def entry(
    key: AttemptKey | None, attempt: int = 1, number: int = 1, *data: Any, **changes: bytes
) -> dict[bytes, bytes]:
    """The fields of an entry that a worker writes, with `changes`."""
    chunks = [orjson.dumps(["updates", [], each]) for each in data or (number,)]
    (_, _, *rest), _ = entry_of("s", attempt, number, chunks, key)
    texts = [part if isinstance(part, bytes) else str(part).encode() for part in rest[rest.index("*") + 1 :]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def key_of(attempt: int = 1, task_id: str = "t", secret: bytes = SECRET, owner: Address = CLIENT) -> AttemptKey:
    return ring((COORDINATOR, owner), secret).run_keys(task_id)[0].of_attempt(attempt)


def taken(check: EntryCheck, *entries: dict[bytes, bytes]) -> list[Any]:
    """The data of the entries that count."""
    return [
        chunk.data
        for each in entries
        if check.is_signed(each) and check.takes(each)
        for chunk in chunks_of(b"1-1", each)
    ]


# ---- who has which key ----


def test_a_client_with_only_its_own_key_has_that_of_its_runs_in_any_session() -> None:
    exported = ring((COORDINATOR, CLIENT)).export()
    above = ring(K).run_keys("t", CLIENT)

    for me in (CLIENT, *sessions_of(CLIENT, "9f3c", "9f3d")):
        assert KeyRing.from_agent_key(exported, (COORDINATOR, me)).run_keys("t") == above
        assert ring((COORDINATOR, me)).run_keys("t") == above


def test_tasks_owners_attempts_and_secrets_have_keys_of_their_own() -> None:
    other = Address(Role.CLIENT, "other")
    operator = Address(Role.OPERATOR, CLIENT.agent_id)
    runs = [
        *ring(K).run_keys("t", CLIENT), *ring(K).run_keys("u", CLIENT), *ring(K).run_keys("t", other),
        *ring(K).run_keys("t", operator), *ring(K).run_keys("t"), *ring(K, OLD_SECRET).run_keys("t", CLIENT),
    ]  # fmt: skip
    found = {key.secret for run in runs for key in (run, run.of_attempt(1), run.of_attempt(11))}

    assert len(found) == 3 * len(runs)


def test_the_key_of_an_attempt_comes_down_to_its_worker_and_is_the_one_that_the_owner_derives() -> None:
    task = a_task("t", owner=str(CLIENT), run=STREAMED, attempt=3)

    assert handed_down(task) == key_of(3)


def test_a_worker_cannot_read_the_key_of_another_and_has_none_of_the_whole_run() -> None:
    task = a_task("t", owner=str(CLIENT), run=STREAMED, attempt=1)
    given = ring(K).wrapped(ring(K).run_keys("t", CLIENT), DISTRIBUTOR)
    other = Address(Role.WORKER, "worker-2")
    handed = ring(D).wrapped([key_of(1)], WORKER)

    assert [*ring((*D, other)).unwrapped(handed)] == []
    assert [*ring(W).unwrapped(given)] == []
    assert [*ring((COORDINATOR, Address(Role.DISTRIBUTOR, "d-2"))).unwrapped(given)] == []
    assert handed_down(task).secret not in {run.secret for run in ring(K).run_keys("t", CLIENT)}


def test_a_key_travels_as_rfc_3394_wraps_it() -> None:
    [key] = ring(K).run_keys("t", CLIENT)
    key_id, _, text = ring(K).wrapped([key], DISTRIBUTOR).partition(":")

    assert key_id == key_id_of(SECRET)
    assert aes_key_unwrap(ring(D)._for(key_id, DISTRIBUTOR, "wrapping"), bytes.fromhex(text)) == key.secret


@pytest.mark.parametrize(
    "text", ["", ",", "garbage", "\x00", f"{key_id_of(SECRET)}:{'0' * 80}", "0a1b2c3d:" + "f" * 80]
)
def test_a_text_that_is_no_key_is_none_and_its_item_goes_without(text: str) -> None:
    assert [*ring(D).unwrapped(text)] == []
    assert "run_key" not in sent_by(D, b'{"a":1}', a_task(run_key=text, attempt=1), WORKER)


def test_a_distributor_hands_on_what_it_was_given_also_when_it_knows_it_only_by_its_own_record() -> None:
    task = a_task("t", owner=str(CLIENT), root_id="t", run=STREAMED)
    given = sent_by(K, task.to_json(), task, DISTRIBUTOR)
    before, after = a_distributor(WORKER), a_distributor(WORKER_2)
    step = take(before, to_me(COORDINATOR, Action.ASSIGN_TASK, [given]))
    record = step.writes[Table.ACTUAL, ""]["t"]
    assert isinstance(record, bytes)

    recall(after, [Task.from_json(record)], 0)
    again = take(after, outcome("t", "returned"))

    for attempt, decided in ((1, step), (2, again)):
        [item] = [item for items in decided.sends.values() for item in items if isinstance(item, Keyed)]
        assert "run_key" not in orjson.loads(bytes(item))
        told = sent_by(D, item, item.task, WORKER)["run_key"]
        assert [AttemptKey(*key) for key in ring(W).unwrapped(told)] == [key_of(attempt)]


def test_while_the_secret_is_changed_workers_sign_with_the_new_one_and_readers_check_both() -> None:
    task = a_task("t", owner=str(CLIENT), run=STREAMED, attempt=1)
    changing = {"secret": SECRET, "previous": OLD_SECRET}
    check = EntryCheck(ring((COORDINATOR, CLIENT), **changing).run_keys("t"))

    assert handed_down(task, **changing) == key_of(1)
    assert taken(check, entry(key_of(1, secret=OLD_SECRET), 1, 1), entry(key_of(1), 1, 2)) == [1, 2]

    reader = Address(Role.OPERATOR, "night-shift")
    told = ring(K, **changing).wrapped(ring(K, **changing).run_keys("t", CLIENT), reader)
    ops = ring((COORDINATOR, reader), **changing)
    assert [RunKey(*key) for key in ops.unwrapped(told)] == ring((COORDINATOR, CLIENT), **changing).run_keys("t")


# ---- what a reader takes ----


@pytest.fixture
def check() -> EntryCheck:
    return EntryCheck(ring((COORDINATOR, CLIENT)).run_keys("t"))


def test_what_the_workers_of_a_run_have_written_counts_in_its_order(check: EntryCheck) -> None:
    attempts = [
        entry(key_of(1), 1, 5, "a", "b"),
        entry(key_of(1), 1, 6),
        entry(key_of(2), 2, 2),
        entry(key_of(2), 2, 3),
    ]

    assert taken(check, *attempts) == ["a", "b", 6, 2, 3]


GOOD = entry(key_of())
OF_OTHERS = [
    key_of(2), key_of(task_id="u"), key_of(secret=OLD_SECRET), key_of(owner=Address(Role.CLIENT, "other")), None,
]  # fmt: skip
CHANGES: list[dict[bytes, bytes]] = [
    {b"mac": b""}, {b"mac": b"0" * 32}, {b"mac": b"\xff" * 32}, {b"chunks": b'[["updates",[],666]]'}, {b"kid": b"\xff"},
    {b"kid": b"0a1b2c3d"}, {b"number": b"2"}, {b"number": b"1 "}, {b"number": b"9" * 5000}, {b"attempt": b"2"},
    {b"attempt": b"-1"}, {b"attempt": b"x"}, {b"attempt": b""},
]  # fmt: skip


@pytest.mark.parametrize(
    "forged",
    [{}, {b"chunks": b"[]"}, *(entry(other) for other in OF_OTHERS), *(GOOD | change for change in CHANGES)],
)
def test_what_no_worker_of_the_run_has_signed_does_not(check: EntryCheck, forged: dict[bytes, bytes]) -> None:
    assert not check.is_signed(forged)
    assert taken(check, forged, GOOD) == [1]


def test_an_entry_that_comes_again_counts_once_and_a_gap_is_none_of_its_readers_business(check: EntryCheck) -> None:
    one, two, nine = (entry(key_of(), 1, number) for number in (1, 2, 9))
    later = entry(key_of(2), 2, 1)

    assert taken(check, one, one, nine, two, later, one, nine, later) == [1, 9, 1]


def test_a_reader_that_goes_on_takes_nothing_of_before(check: EntryCheck) -> None:
    before = [entry(key_of(1), 1, 8), entry(key_of(2), 2, 3)]
    last = entry(key_of(2), 2, 4)

    assert taken(check, last) == [4]  # it is read again
    assert taken(check, *before, last, entry(key_of(2), 2, 5), *before, entry(key_of(3), 3, 1)) == [5, 1]


def test_with_the_keys_of_the_owner_those_of_the_reader_count_no_more(check: EntryCheck) -> None:
    owner = Address(Role.CLIENT, "other")
    theirs, own = entry(key_of(owner=owner), 1, 1), entry(key_of(), 1, 2)
    assert [check.is_signed(each) for each in (theirs, own)] == [False, True]

    check.use(ring(K).run_keys("t", owner))

    assert taken(check, theirs, own) == [1]


NAMED = '{"task_id":"t","run_key":%s}'
TEXTS = st.binary(max_size=20) | st.sampled_from([*GOOD.values()])


@given(st.dictionaries(st.sampled_from([*GOOD]), TEXTS), st.dictionaries(TEXTS, TEXTS))
def test_whatever_somebody_appends_ends_no_reader(changes: dict[bytes, bytes], made_up: dict[bytes, bytes]) -> None:
    check = EntryCheck(ring((COORDINATOR, CLIENT)).run_keys("t"))
    changed = GOOD | changes

    same = changed | {name: changed[name].lstrip(b"0") for name in (b"attempt", b"number")}
    assert check.is_signed(changed) == (same == GOOD)
    assert not check.is_signed(made_up)


@pytest.mark.parametrize("item", ["1", "{}", "[]", '{"task_id":1}', NAMED % "7", NAMED % ('"' + "x" * 999 + '"')])
def test_a_malformed_key_in_an_answer_is_refused(item: str) -> None:
    with pytest.raises(MalformedMessage):
        given_run_key(Raw(item.encode()))


# ---- who is told it ----


def test_who_watches_the_run_of_somebody_else_is_given_its_key_and_nobody_else_is() -> None:
    state, friend = a_coordinator(DISTRIBUTOR), Address(Role.CLIENT, "friend~1")
    stranger, operator = Address(Role.CLIENT, "stranger~1"), Address(Role.OPERATOR, "o~1")
    shared = {"run": STREAMED, "shared_with": ("friend",)}
    take_in(state, submitted(a_task("t", **shared), a_task("plain", shared_with=("friend",)), client=CLIENT))

    def given_to(asker: Address) -> list[RunKey]:
        step = take_in(state, message_to(COORDINATOR)(asker, Action.WATCH_TASK, ["t", "plain"]))
        messages = [Signed.from_fields(list(c[-8:])) for c in Outbox(K, ring(K)).commands(step, 1) if c[0] == "XADD"]  # type: ignore[arg-type]
        told = [item["run_key"] for each in messages for item in orjson.loads(each.body)["payload"]["tasks"]]
        return [RunKey(*key) for text in told for key in ring((COORDINATOR, asker)).unwrapped(text)]

    assert given_to(friend) == given_to(operator) == ring((COORDINATOR, CLIENT)).run_keys("t")
    assert given_to(stranger) == given_to(CLIENT) == []
