"""Which trace a task is part of, and what is told of it: rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core.errors import BadTask
from core.spans import spans_of_attempt, spans_of_end
from core.step import Batch
from core.tasks import Task, TaskError, TaskStatus
from core.trace_context import TraceContext, attempt_span_id, begun, task_span_id
from core.trace_starts import TraceStarts

NOW = datetime(2026, 11, 28, tzinfo=UTC)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOT_RECORDED = PARENT[:-1] + "0"


def batch(at: datetime = NOW) -> Batch:
    return Batch(now=at, mono_ms=0)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "00-abc",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        PARENT + "-more",
    ],
)
def test_a_traceparent_that_breaks_the_recommendation_is_ignored(traceparent: str | None) -> None:
    assert TraceContext.parsed(traceparent) is None


def test_a_tracestate_that_is_too_long_is_left_out() -> None:
    assert TraceContext.parsed(PARENT, "a=b" * 400) == TraceContext(PARENT)


def test_a_task_with_a_malformed_trace_is_refused_by_name() -> None:
    with pytest.raises(BadTask, match=r"trace\.traceparent"):
        Task(task_type="t", trace={"traceparent": "00-abc"})


def test_a_task_that_came_with_a_trace_stays_in_it() -> None:
    task = Task(task_type="t", trace=TraceContext(NOT_RECORDED))
    assert TraceStarts(share=0).trace_of(task, batch()) == TraceContext(NOT_RECORDED)


def test_no_more_traces_begin_in_a_second_than_allowed() -> None:
    starts, soon = TraceStarts(a_second=2), NOW + timedelta(seconds=1)
    moments = [NOW, NOW, NOW, soon]
    found = [starts.trace_of(Task(task_type="t"), batch(moment)) is not None for moment in moments]
    assert found == [True, True, False, True]


def test_a_share_of_the_traces_is_recorded() -> None:
    starts = TraceStarts(share=0.25)
    found = [starts.trace_of(Task(task_type="t", task_id=f"t{number}"), batch()) for number in range(2000)]
    assert 400 < sum(trace is not None for trace in found) < 600


def test_the_first_span_of_a_trace_that_begins_with_a_task_is_that_of_the_task() -> None:
    trace = begun("t1", NOW)
    ended = Task(task_type="t", task_id="t1", trace=trace).evolve(status=TaskStatus.COMPLETED, completed_at=NOW)
    [span] = spans_of_end(ended)
    assert span.span_id == trace.span_id


def test_an_attempt_belongs_below_its_task_and_is_linked_with_the_failure_before_it() -> None:
    failed = TaskError(type="ValueError", message="", attempt=2)
    task = Task(task_type="t", task_id="t1", trace=TraceContext(PARENT)).evolve(attempt=5, errors=(failed,))
    [span] = spans_of_attempt(task, "completed", NOW, NOW)
    trace_id = span.trace.trace_id
    assert span.trace.span_id == task_span_id(trace_id, "t1")
    assert span.link == attempt_span_id(trace_id, "t1", 2)


def test_nothing_is_told_of_a_trace_that_is_not_recorded() -> None:
    task = Task(task_type="t", trace=TraceContext(NOT_RECORDED)).evolve(completed_at=NOW)
    assert spans_of_end(task) == []
    assert spans_of_attempt(task, "completed", NOW, NOW) == []


def test_a_span_does_not_end_before_it_begins_when_the_clock_was_set_back() -> None:
    task = Task(task_type="t", trace=TraceContext(PARENT))
    [span] = spans_of_attempt(task, "completed", NOW, NOW - timedelta(hours=1))
    assert span.end_ns == span.start_ns


def test_the_span_of_a_task_that_went_on_as_another_has_the_type_it_was_submitted_with() -> None:
    task = Task(task_type="plan", trace=TraceContext(PARENT))
    ended = task.evolve(task_type="sum_up", begun_as="plan", status=TaskStatus.COMPLETED, completed_at=NOW)
    [span] = spans_of_end(ended)
    assert (span.name, span.attributes["messaging.destination.name"]) == ("task plan", "plan")
