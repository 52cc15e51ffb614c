"""The catalogue of events: its levels, its names and aliases, and types of a newer version."""

from __future__ import annotations

from itertools import pairwise

import pytest

from core.errors import BadEvent
from core.event_types import ALIASES, EventLevel, EventType, event_type, event_types_table, foreign_event_type

#: The names that programs of other buses and streams come with.
OF_A_BUS = [
    "execution_started", "execution_completed", "execution_failed", "execution_paused", "execution_resumed",
    "state_changed", "state_conflict", "goal_progress", "goal_achieved", "constraint_violation", "stream_started",
    "stream_stopped", "node_loop_started", "node_loop_iteration", "node_loop_completed", "llm_text_delta",
    "llm_reasoning_delta", "tool_call_started", "tool_call_completed", "client_output_delta",
    "client_input_requested", "node_internal_output", "node_input_blocked", "node_stalled", "custom", "node_retry",
    "edge_traversed", "tool_doom_loop", "judge_verdict", "output_key_set", "context_compacted",
    "escalation_requested", "webhook_received",
]  # fmt: skip
OF_A_STREAM = ["handoff_ready", "tool_result", "state_changed", "agent_started", "agent_completed", "error"]


@pytest.mark.parametrize("name", [*OF_A_BUS, *OF_A_STREAM])
def test_names_of_other_vocabularies_are_members_with_these_values(name: str) -> None:
    assert EventType[name.upper()].value == name


@pytest.mark.parametrize("name", ["TASK_COMPLETED", "task_completed", "Task_Completed", EventType.TASK_COMPLETED])
def test_a_type_is_found_by_its_name_however_that_is_written(name: str) -> None:
    assert event_type(name) is EventType.TASK_COMPLETED


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_no_second_name_of_a_member_and_resolves(alias: str) -> None:
    assert alias not in set(EventType)
    assert event_type(alias.upper()) is ALIASES[alias]


def test_an_unknown_name_is_refused_with_those_that_are_spelt_alike() -> None:
    with pytest.raises(BadEvent, match=r"task_compleeted.*task_completed"):
        event_type("task_compleeted")
    with pytest.raises(BadEvent, match=r"EventType\.CUSTOM"):
        event_type("zzz")


def test_each_level_tells_what_those_before_it_tell() -> None:
    told = [{kind for kind in EventType if level.tells(kind)} for level in EventLevel]
    assert told[0] == set()
    assert all(less < more for less, more in pairwise(told))
    assert told[-1] == set(EventType)


def test_levels_are_as_the_configuration_describes_them() -> None:
    assert EventLevel.AGENTS.tells(EventType.AGENT_LOST)
    assert not EventLevel.AGENTS.tells(EventType.TASK_SUBMITTED)
    assert EventLevel.TASKS.tells(EventType.ATTEMPT_LOST)
    assert not EventLevel.TASKS.tells(EventType.TASK_PROGRESS)


def test_a_type_of_a_newer_version_equals_its_name_and_is_no_member() -> None:
    newer = foreign_event_type("task_teleported")
    assert newer == "task_teleported"
    assert newer.value == "task_teleported"
    assert {"task_teleported": 1}[newer] == 1
    assert newer not in set(EventType)
    assert newer.level is EventLevel.ALL


@pytest.mark.parametrize("name", ["", "two words", "ünknown", "x" * 65, "a\nb"])
def test_what_can_be_no_name_of_a_type_is_refused(name: str) -> None:
    with pytest.raises(BadEvent):
        foreign_event_type(name)


def test_a_known_type_is_itself_whoever_sent_it() -> None:
    assert foreign_event_type("task_completed") is EventType.TASK_COMPLETED


def test_the_table_has_a_row_for_each_type_and_each_says_something() -> None:
    rows = list(event_types_table())
    assert [row[0] for row in rows] == [kind.value for kind in EventType]
    assert all(meaning.endswith(".") for _, _, meaning, _ in rows)
    assert ("task_refused", "tasks", "The coordinator has not accepted a task.", "reason") in rows
