"""The border: what an item may say, how much of it, and at what cost a wrong one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import orjson
import pytest
from msgspec import Raw, to_builtins
from msgspec.inspect import (
    BoolType,
    DictType,
    IntType,
    NoneType,
    StrType,
    StructType,
    TupleType,
    UnionType,
    VarTupleType,
    type_info,
)

from core.errors import BadTask, MalformedMessage
from core.reports import (
    CHILDREN_LIMIT_BYTES,
    ERRORS_LIMIT_BYTES,
    PROGRESS_LIMIT_BYTES,
    Answer,
    AttemptName,
    QuestionsWanted,
    answer_in,
    attempt_in,
    attempt_named,
    attempt_report,
    children_in,
    item_of,
    progress_report,
    shown_id,
    task_id_in,
    task_named,
    task_report,
)
from core.roles import Address, Role
from core.signing import AHEAD_MS, KeyRing, check_plausible
from core.status_reports import Beat, Kind
from core.tasks import Task, checked
from tests.builders import COORDINATOR, NOW, SECRET, a_task

ENDED = {"task_id": "t", "attempt": 1, "status": "completed"}


def item(value: object) -> Raw:
    return Raw(orjson.dumps(value))


def parts_of(kind: Any) -> Iterator[Any]:
    """A type, and each that it is made of."""
    yield kind
    for name in ("item_type", "key_type", "value_type", "item_types", "types"):
        inner = getattr(kind, name, ())
        for part in inner if isinstance(inner, tuple) else (inner,):
            yield from parts_of(part)


def test_nothing_in_a_heartbeat_is_without_a_bound() -> None:
    """Whoever holds the key of one child must not be able to fill the memory of its parent."""
    shape = type_info(Beat)
    assert isinstance(shape, StructType)
    kind = type_info(Kind)
    assert isinstance(kind, StructType)
    for field in (*shape.fields, *kind.fields):
        for part in parts_of(field.type):
            if isinstance(part, StrType | VarTupleType | DictType):
                assert part.max_length is not None, field.name
            elif isinstance(part, IntType):
                assert part.ge is not None, field.name
                assert part.le is not None or part.lt is not None, field.name
            else:
                assert isinstance(part, BoolType | NoneType | TupleType | UnionType) or part == kind, field.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": "1"}, {"attempt": True}, {"attempt": -1}, {"attempt": 2**53}, {"status": "pending"},
        {"status": None}, {"status": "failed"}, {"status": "delegated"}, {"started_at": "2026-01-01T00:00:00"},
        {"then": 5}, {"error": [1]}, {"run_ms": -1}, {"max_attempts": 1_000}, {"children": 5},
        {"output": ["x"]}, {"output": "x" * 2049}, {"output": None}, {"then": {"task_type": "a b"}},
    ],
)  # fmt: skip
def test_a_report_that_breaks_its_shape_is_refused_by_the_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        attempt_report(item({**ENDED, **wrong}))


def test_an_id_that_nobody_chose_can_be_asked_for() -> None:
    task_id = Task(task_type="t").task_id
    wanted = orjson.loads(item_of(QuestionsWanted(listing="a", task=task_id, root=task_id, limit=1)))
    assert (wanted["task"], wanted["root"]) == (task_id, task_id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"refused": 1}, {"refused": ["t"]}, {"refused": [{}]}, {"refused": [{"task_id": "t"}]},
        {"refused": [{"task_id": 1, "reason": "r"}]}, {"replayed": ["t"]}, {"replayed": {"t": 1}},
    ],
)  # fmt: skip
def test_an_answer_that_breaks_its_shape_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        answer_in({"action": "task_accepted", **wrong})


def test_an_answer_that_refuses_nothing_says_nothing_and_is_understood() -> None:
    assert to_builtins(Answer()) == {}
    assert answer_in({"action": "task_accepted", "refused": []}) == answer_in({}) == Answer()


def test_a_refusal_quotes_nothing_of_what_was_said() -> None:
    with pytest.raises(MalformedMessage) as refused:
        attempt_report(item({**ENDED, "started_at": "a secret", "status": "a secret"}))
    assert "secret" not in str(refused.value)


def test_what_is_promised_of_sizes_holds_for_reports() -> None:
    large = {**ENDED, "result": "x" * 300_000}
    with pytest.raises(MalformedMessage, match="limit of 262144"):
        attempt_report(item(large))
    many = {**ENDED, "status": "delegated", "children": [{"task_type": "sum", "payload": "x" * 200_000}] * 12}
    with pytest.raises(MalformedMessage, match="children"):
        attempt_report(item(many))
    errors = [{"type": "E", "message": "x" * 100_000}] * 3
    with pytest.raises(MalformedMessage, match="errors"):
        task_report(item({"task_id": "t", "status": "failed", "errors": errors}))
    with pytest.raises(MalformedMessage, match="progress"):
        progress_report(item({"task_id": "t", "attempt": 1, "progress": {"note": "x" * 10_000}}))


@pytest.mark.parametrize("value", [None, 7, "", "x" * 3_000, "a b", ["t"], {"task_id": "t"}])
def test_an_answer_names_no_item_by_what_is_no_id(value: object) -> None:
    assert shown_id(task_named(item(value))) == "?"
    assert shown_id(task_named(item("order-17/2"))) == "order-17/2"


@pytest.mark.parametrize("field", ["deadline", "not_before", "started_at"])
def test_a_moment_without_a_time_zone_makes_no_task(field: str) -> None:
    with pytest.raises(BadTask, match=field):
        Task.from_json(item({"task_type": "sum", field: "2026-01-01T12:00:00"}))
    with pytest.raises(BadTask, match="deadline"):
        checked(a_task().evolve(deadline=NOW.replace(tzinfo=None)))


def test_the_number_of_a_start_is_believed_as_far_as_the_clock_may_have_been_set_back() -> None:
    check_plausible(NOW.year, 0, 0)
    check_plausible(AHEAD_MS, 0, 0)
    check_plausible(2**53 - 1, 2**53 - 1, 0)  # of one that is known it is too late
    with pytest.raises(MalformedMessage):
        check_plausible(AHEAD_MS + 1, AHEAD_MS, 0)


def test_a_session_signs_with_a_key_of_its_own_that_follows_from_its_clients() -> None:
    above = KeyRing.from_secret(SECRET, (COORDINATOR,))
    given = KeyRing.from_secret(SECRET, (COORDINATOR, Address(Role.CLIENT, "bob"))).export()
    one, other = (Address(Role.CLIENT, f"bob~{session}") for session in ("1", "2"))

    signed = KeyRing.from_agent_key(given, (COORDINATOR, one)).sign(b"{}", COORDINATOR)

    above.verify(signed)
    assert signed.sender == one
    assert KeyRing.from_agent_key(given, (COORDINATOR, other)).sign(b"{}", COORDINATOR).signature != signed.signature
    assert KeyRing.from_secret(SECRET, (COORDINATOR, one)).sign(b"{}", COORDINATOR) == signed


@pytest.mark.parametrize(("role", "agent_id"), [(Role.WORKER, "w~1"), (Role.CLIENT, "c~"), (Role.CLIENT, "c~A~b")])
def test_only_who_asks_from_outside_has_sessions(role: Role, agent_id: str) -> None:
    with pytest.raises(Exception, match="agent id"):
        Address.of(role, agent_id)


# ---- what is said of a malformed item ----

NO_SHAPE = "item: no JSON of such a shape"
DELEGATED = {**ENDED, "status": "delegated"}


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (attempt_report, b'{"task_id":"t","attempt":1}', "status: missing"),
        (attempt_report, b'{"task_id":"t","attempt":"1","status":"completed"}', "attempt: expected int, got str"),
        (attempt_report, b"[]", "item: expected object, got array"),
        (attempt_report, b"{", NO_SHAPE),
        (attempt_report, orjson.dumps({**ENDED, "status": "?"}), "status: not one of the allowed values"),
        (
            attempt_report, orjson.dumps({**ENDED, "status": "failed"}),
            "error: missing from the report of a failed attempt",
        ),
        (
            attempt_report, orjson.dumps(DELEGATED),
            "children: missing from the report of an attempt that delegated",
        ),
        (attempt_report, orjson.dumps({**ENDED, "then": {"task_type": "a b"}}), "then.task_type: no name of a type"),
        (
            attempt_report, orjson.dumps({**ENDED, "result": "x" * 262_144}),
            "result has 262146 bytes as JSON, over the limit of 262144. Store it elsewhere and pass a reference.",
        ),
        (task_report, b"7", "item: expected object, got int"),
        (progress_report, b'{"task_id":"t","attempt":1,"progress":[]}', "progress: no object"),
        (
            progress_report, b'{"task_id":"t","attempt":1,"progress":{"n":"%b"}}' % (b"x" * 8185),
            "progress: too large",
        ),
        (attempt_named, b'{"task_id":"t"}', "attempt: missing"),
        (attempt_named, b"[" * 100_000, "item: expected object, got array"),
    ],
)  # fmt: skip
def test_a_malformed_item_is_named_by_its_field(read: Any, text: bytes, words: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        read(Raw(text))
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"refused": 1}, "refused: expected array, got int"),
        ({"replayed": {"t": 1}}, "replayed[...]: expected str, got int"),
        ([], "payload: expected object, got array"),
    ],
)
def test_a_malformed_answer_is_named_by_its_field(payload: Any, words: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        answer_in(payload)
    assert str(refused.value) == words


def test_an_item_may_be_just_as_large_as_its_limits() -> None:
    progress = b'{"task_id":"t","attempt":1,"progress":{"n":"%b"}}' % (b"x" * (2 * PROGRESS_LIMIT_BYTES - 8))
    assert len(memoryview(progress_report(Raw(progress)).progress_json)) == 2 * PROGRESS_LIMIT_BYTES

    children = Raw(b'"%b"' % (b"x" * (CHILDREN_LIMIT_BYTES // 2 - 2)))
    delegated = {**DELEGATED, "children": [children, children]}
    assert attempt_report(Raw(msgspec.json.encode(delegated))).children == (children, children)

    told = {"task_id": "t", "status": "failed", "errors": [{"type": "E", "message": ""}]}
    empty = len(item_of((task_report(item(told)).errors, None)))
    told["errors"] = [{"type": "E", "message": "x" * (ERRORS_LIMIT_BYTES - empty)}]
    assert task_report(item(told)).errors
    told["errors"] = [{"type": "E", "message": "x" * (ERRORS_LIMIT_BYTES - empty + 1)}]
    with pytest.raises(MalformedMessage, match="errors: over 262144 bytes"):
        task_report(item(told))


@pytest.mark.parametrize(
    ("text", "task_id", "attempt", "children"),
    [
        (b'{"task_id":"t","attempt":2,"children":[1,{}]}', "t", AttemptName(task_id="t", attempt=2), [b"1", b"{}"]),
        (b'{"task_id":"t","attempt":"2"}', "t", None, []),
        (b'{"task_id":"a b","children":7}', None, None, []),
        (b'{"task_id":7}', None, None, []),
        (b"{}", None, None, []),
        (b"{", None, None, []),
        (b"[" * 100_000, None, None, []),
    ],
)
def test_of_a_malformed_item_is_known_what_it_says_soundly(
    text: bytes, task_id: str | None, attempt: AttemptName | None, children: list[bytes]
) -> None:
    assert task_id_in(Raw(text)) == task_id
    assert attempt_in(Raw(text)) == attempt
    assert [bytes(child) for child in children_in(Raw(text))] == children
