"""The core without a server: messages and signatures, an agent's state, a task's life, and what is written of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from msgspec import Raw, structs
from msgspec.structs import replace

from core import A2AMessage, LocalAgentState, MessageType, SharedAgentState, Task, TaskStatus
from core.a2a_messaging import Metadata
from core.errors import BadSignature, BadTask, MalformedMessage, MessageTooLarge, UnlawfulTransition
from core.json_values import DEPTH_LIMIT, PAYLOAD_LIMIT_BYTES, payload_json
from core.langgraph_state import HISTORY_KEPT, AgentStatus
from core.signing import KeyRing
from core.task_status import ENDED, LAWFUL
from core.tasks import TaskError, Then
from tests.builders import COORDINATOR, DISTRIBUTOR, NOW, SECRET, a_message, a_task

S = TaskStatus


# ---- messages ----


def body(**changes: Any) -> bytes:
    """A good body, but for `changes` to the message or, with a `metadata_` before their name, to its metadata."""
    message = orjson.loads(a_message(COORDINATOR, DISTRIBUTOR, "assign_task", tasks=[]).encode())
    for name, value in changes.items():
        if name.startswith("metadata_"):
            message["metadata"][name.removeprefix("metadata_")] = value
        else:
            message[name] = value
    return orjson.dumps(message)


class TestMessages:
    @pytest.mark.parametrize("kind", list(MessageType))
    def test_a_message_of_any_type_comes_back_from_its_bytes(self, kind: MessageType) -> None:
        message = replace(a_message(COORDINATOR, DISTRIBUTOR, "assign_task", note={"n": 1}), type=kind)

        assert A2AMessage.decode(message.encode()) == message

    def test_the_message_types_are_those_of_the_protocol(self) -> None:
        assert {kind.value for kind in MessageType} == {"request", "response", "heartbeat", "event", "ack", "error"}

    def test_a_message_carries_where_it_comes_from_and_what_it_answers(self) -> None:
        metadata = Metadata(origin="k", timestamp=1, sequence_number=3, incarnation=2, parent_request_id="r-1")

        assert (metadata.version, metadata.parent_request_id, metadata.sequence_number) == ("v1", "r-1", 3)
        assert metadata.request_id != Metadata(origin="k", timestamp=1, sequence_number=4, incarnation=2).request_id

    @pytest.mark.parametrize(
        ("payload", "items"),
        [({"tasks": [1, 2]}, [1, 2]), ({"task": {"n": 1}}, [{"n": 1}]), ({}, []), ({"tasks": []}, [])],
    )
    def test_one_task_and_a_list_of_tasks_are_both_understood(self, payload: dict[str, Any], items: list[Any]) -> None:
        assert A2AMessage.decode(body(payload={"action": "assign_task", **payload})).tasks == [
            Raw(orjson.dumps(item)) for item in items
        ]

    def test_unknown_fields_are_ignored_so_that_releases_can_be_mixed(self) -> None:
        assert A2AMessage.decode(body(colour="blue", metadata_mood="good")).action == "assign_task"

    @pytest.mark.parametrize(
        "changes",
        [
            {"type": "shout"}, {"sender": 5}, {"payload": []}, {"payload": None}, {"metadata": {}},
            {"metadata_sequence_number": -1}, {"metadata_sequence_number": "x"}, {"metadata_version": "v2"},
            {"metadata_timestamp": None}, {"metadata_incarnation": 1.5},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_body_that_breaks_the_schema_is_malformed(self, changes: dict[str, Any]) -> None:
        with pytest.raises(MalformedMessage):
            A2AMessage.decode(body(**changes))

    @pytest.mark.parametrize("text", [b"", b"{", b"null", b"[]", b"\xff", b'{"a": NaN}', b"[" * 2000 + b"]" * 2000])
    def test_bytes_that_are_no_json_object_are_malformed(self, text: bytes) -> None:
        with pytest.raises(MalformedMessage):
            A2AMessage.decode(text)

    def test_a_message_over_the_limit_is_refused_before_it_is_parsed(self) -> None:
        with pytest.raises(MessageTooLarge):
            A2AMessage.decode(b"{" * 1001, limit_bytes=1000)

    def test_a_payload_that_is_no_json_cannot_be_encoded(self) -> None:
        with pytest.raises(BadTask):
            a_message(COORDINATOR, DISTRIBUTOR, "assign_task", task={1, 2}).encode()

    def test_the_bytes_that_are_signed_are_the_bytes_that_travel(self) -> None:
        coordinator = KeyRing.from_secret(SECRET, (COORDINATOR,))
        distributor = KeyRing.from_secret(SECRET, (COORDINATOR, DISTRIBUTOR))
        message = a_message(COORDINATOR, DISTRIBUTOR, "assign_task", note={"ü": 1.0})

        signed = coordinator.sign(message.encode(), DISTRIBUTOR)

        distributor.verify(signed)
        assert signed.body == message.encode()
        assert A2AMessage.decode(signed.body) == message

    def test_a_message_signed_with_another_secret_is_refused(self) -> None:
        stranger = KeyRing.from_secret(b"another secret altogether", (COORDINATOR,))
        distributor = KeyRing(
            (COORDINATOR, DISTRIBUTOR),
            {stranger.sign(b"", DISTRIBUTOR).key_id: b"\0" * 32},  # even if it claims a key id that is known
        )

        with pytest.raises(BadSignature):
            distributor.verify(stranger.sign(b"{}", DISTRIBUTOR))


# ---- the life of a task ----


class TestTasks:
    def test_a_new_task_is_pending_and_has_an_id_of_its_own(self) -> None:
        first, second = Task(task_type="sum"), Task(task_type="sum")

        assert (first.status, first.retry_count, first.result, first.error) == (S.PENDING, 0, None, None)
        assert first.task_id != second.task_id
        assert first.created_at.tzinfo is not None
        assert datetime.now(UTC) - first.created_at < timedelta(seconds=10)

    @pytest.mark.parametrize("before", list(S))
    @pytest.mark.parametrize("after", list(S))
    def test_a_task_moves_as_the_table_allows_and_stays_as_it_was_otherwise(
        self, before: TaskStatus, after: TaskStatus
    ) -> None:
        task = a_task(status=before)
        as_it_was = task.to_json()
        later = NOW + timedelta(seconds=1)

        if after in LAWFUL[before]:
            moved = task.moved(after, later)
            assert (moved.status, moved.updated_at) == (after, later)
            assert moved.completed_at == (later if after in ENDED else None)
        else:
            with pytest.raises(UnlawfulTransition):
                task.moved(after, later)
        assert task.to_json() == as_it_was

    def test_what_has_ended_never_moves_again(self) -> None:
        assert {status for status in S if not LAWFUL[status]} == set(ENDED)

    @pytest.mark.parametrize(
        ("began", "pause_s"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (99, 60.0)]
    )
    def test_the_pause_before_an_attempt_doubles_up_to_a_minute(self, began: int, pause_s: float) -> None:
        pauses_s = [
            a_task(f"t{number}", backoff_s=1.0, retry_count=began).retry_delay().total_seconds() for number in range(60)
        ]
        assert pause_s / 2 <= min(pauses_s) < pause_s * 0.6
        assert pause_s * 0.9 < max(pauses_s) <= pause_s

    def test_tasks_that_fail_together_are_not_tried_again_in_one_moment(self) -> None:
        pauses = {a_task(f"t{number}", backoff_s=0.5, retry_count=1).retry_delay() for number in range(60)}
        assert len(pauses) == 60

    def test_the_pause_of_a_task_is_the_same_whoever_looks(self) -> None:
        task = a_task(backoff_s=1.0, retry_count=1)
        assert Task.from_json(task.to_json()).retry_delay() == task.retry_delay()

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"task_type": "no spaces"}, "task_type"),
            ({"task_type": ""}, "task_type"),
            ({"task_id": "-x"}, "task_id"),
            ({"task_id": "x" * 201}, "task_id"),
            ({"task_id": "a\n"}, "task_id"),
            ({"priority": "soon"}, "priority"),
            ({"timeout_s": 0}, "timeout_s"),
            ({"timeout_s": float("nan")}, "timeout_s"),
            ({"max_attempts": 0}, "max_attempts"),
            ({"backoff_s": -1}, "backoff_s"),
            ({"deadline": "tomorrow"}, "deadline"),
            ({"capabilities": ["x" * 201]}, "capabilities"),
            ({"capabilities": ["x"] * 33}, "capabilities"),
            ({"idempotency_key": "x" * 201}, "idempotency_key"),
            ({"metadata": []}, "metadata"),
        ],
    )
    def test_a_malformed_field_is_named(self, fields: dict[str, Any], named: str) -> None:
        with pytest.raises(BadTask, match=named):
            Task(**{"task_type": "sum", **fields})


class TestSizes:
    def test_a_payload_of_exactly_the_limit_is_good_and_one_more_byte_is_not(self) -> None:
        assert len(payload_json("payload", "x" * (PAYLOAD_LIMIT_BYTES - 2))) == PAYLOAD_LIMIT_BYTES
        with pytest.raises(BadTask, match="over the limit"):
            payload_json("payload", "x" * (PAYLOAD_LIMIT_BYTES - 1))

    @pytest.mark.parametrize("text", ['"[[[', "\\", '\\"[', "]]]]"])
    def test_nesting_is_counted_outside_of_strings(self, text: str) -> None:
        deepest: Any = text * 100
        for level in range(DEPTH_LIMIT):
            deepest = [deepest] if level % 2 else {text: deepest}

        payload_json("payload", deepest)
        with pytest.raises(BadTask, match="deeper"):
            payload_json("payload", [deepest])

    def test_many_lists_side_by_side_are_not_deep(self) -> None:
        payload_json("payload", [[], {}] * 1000)

    @pytest.mark.parametrize(
        "value",
        [{1, 2}, object(), b"bytes", {"a": 2**70}, "\ud800"],
        ids=["set", "object", "bytes", "large", "surrogate"],
    )
    def test_what_is_no_json_is_refused(self, value: object) -> None:
        with pytest.raises(BadTask, match="not JSON"):
            payload_json("payload", value)


# ---- what is written ----


FULL: dict[str, Any] = {
    "payload": {"a": [1, None, "ü"]},
    "status": "waiting",
    "priority": "urgent",
    "updated_at": NOW,
    "started_at": NOW,
    "error": TaskError(type="E", message="m", attempt=2),
    "retry_count": 2,
    "metadata": {"k": "v"},
    "timeout_s": 1.5,
    "deadline": NOW + timedelta(days=1),
    "max_attempts": 5,
    "capabilities": ("gpu",),
    "parent_id": "p",
    "root_id": "r",
    "children": ("a", "b"),
    "then": Then(task_type="merge", payload_json=Raw(b"[1]"), spawned=2),
    "inputs": (("a", "0" * 64),),
    "attempt": 3,
    "assigned_to": "d",
    "reply_to": ("c",),
    "cancel_requested": True,
}


class TestSerialisation:
    @pytest.mark.parametrize("fields", [{}, FULL, {"status": "completed", "result": [None, False, 0, ""]}])
    def test_a_task_comes_back_from_its_record_as_it_was(self, fields: dict[str, Any]) -> None:
        task = a_task(**fields)

        assert Task.from_json(task.to_json()) == task
        assert Task.from_json(orjson.dumps(task.to_dict())) == task

    def test_a_record_holds_only_what_is_not_default(self) -> None:
        assert set(orjson.loads(a_task().to_json())) == {"task_id", "task_type", "created_at"}

    @pytest.mark.parametrize("name", ["result", "payload"])
    @pytest.mark.parametrize("value", [None, False, 0, "", [], {}])
    def test_empty_values_are_not_lost(self, name: str, value: Any) -> None:
        task = a_task(**{name: value})

        assert getattr(Task.from_json(task.to_json()), name) == value

    def test_times_keep_their_moment_in_whatever_zone_they_were_given(self) -> None:
        east = NOW.astimezone(timezone(timedelta(hours=9)))

        assert Task.from_json(a_task(deadline=east).to_json()).deadline == NOW

    def test_a_record_of_a_newer_release_can_be_read(self) -> None:
        assert Task.from_json(orjson.dumps({**orjson.loads(a_task().to_json()), "colour": "blue"})) == a_task()

    def test_a_task_as_people_see_it_has_all_fields_as_json(self) -> None:
        shown = a_task(**FULL).to_dict()

        assert set(shown) == {field.encode_name for field in structs.fields(Task)}
        assert orjson.loads(orjson.dumps(shown)) == shown


# ---- states ----


class TestLocalState:
    def test_a_new_agent_is_idle_and_has_nothing(self) -> None:
        shown = LocalAgentState("k").to_dict()

        assert (shown["agent_id"], shown["status"], shown["local_tasks"], shown["history"]) == ("k", "idle", [], [])
        assert set(shown) == {
            "agent_id", "status", "local_tasks", "last_heartbeat", "local_vars", "history", "metadata", "created_at",
            "updated_at",
        }  # fmt: skip

    def test_a_state_shows_its_tasks_and_is_json(self) -> None:
        state = LocalAgentState("k", status=AgentStatus.BUSY, local_tasks={"t": a_task()}, last_heartbeat=NOW)

        shown = orjson.loads(orjson.dumps(state.to_dict()))

        assert shown["local_tasks"][0]["task_id"] == "t"
        assert datetime.fromisoformat(shown["last_heartbeat"]) == NOW

    def test_an_agent_remembers_only_its_last_events(self) -> None:
        state = LocalAgentState("k")
        for number in range(HISTORY_KEPT + 5):
            state.history.append({"n": number})

        assert [state.history[0]["n"], len(state.history)] == [5, HISTORY_KEPT]

    def test_two_agents_share_nothing(self) -> None:
        one, other = LocalAgentState("a"), LocalAgentState("b")
        one.local_vars["x"] = 1
        one.local_tasks["t"] = a_task()

        assert (other.local_vars, other.local_tasks) == ({}, {})


class TestSharedState:
    LEASE = orjson.dumps(
        {
            "owner": "distributor:d", "process": "m/1/2", "host": "h", "incarnation": 7, "epoch": 8,
            "acquired_at": NOW.timestamp(), "expires_at": NOW.timestamp() + 10, "commits": 3,
        }
    )  # fmt: skip

    def test_it_is_put_together_from_both_halves(self) -> None:
        header = {
            b"coordinator_version": b"4", b"distributor_version": b"9", b"status": b"busy",
            b"assigned_workers": b'["w1","w2"]',
        }  # fmt: skip

        wanted, actual = {b"t": b'{"want":"assigned"}'}, {b"t": a_task().to_json()}
        state = SharedAgentState.assemble("d", header, wanted, actual, self.LEASE)

        assert state
        assert (state.coordinator_version, state.distributor_version, state.status) == (4, 9, "busy")
        assert state.assigned_workers == ("w1", "w2")
        assert state.tasks == (a_task(),)
        assert state.wanted == {"t": "assigned"}
        assert state.lease
        assert (state.lease.owner, state.lease.epoch, state.lease.acquired_at) == ("distributor:d", 8, NOW)

    def test_there_is_none_where_nothing_was_written(self) -> None:
        assert SharedAgentState.assemble("d", {}, {}, {}, None) is None

    def test_one_half_alone_is_enough(self) -> None:
        state = SharedAgentState.assemble("d", {b"coordinator_version": b"1"}, {}, {}, None)

        assert state
        assert (state.distributor_version, state.tasks, state.lease) == (0, (), None)
