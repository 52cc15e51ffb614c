"""The spans of a client that submits: which there are, and that its tasks belong below them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.runtime import tracing
from core.runtime.tracing import BEGUN_A_SECOND, sending
from core.tasks import Task
from core.trace_context import TraceContext

NAMED = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    monkeypatch.setattr(tracing, "_teller", tracing._Teller(provider))
    return kept


def some_tasks(count: int) -> list[Task]:
    return [Task(task_type=f"type-{number % 2}") for number in range(count)]


def by_id(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {str((span.attributes or {})["messaging.message.id"]): span for span in spans}


def context_below(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


@pytest.mark.parametrize("count", [1, 3])
def test_each_task_that_is_submitted_outside_a_span_begins_a_trace(told: InMemorySpanExporter, count: int) -> None:
    with sending(some_tasks(count)) as (sent, of_all):
        assert of_all is None
        assert not told.get_finished_spans(), "it is over only when the hierarchy has answered"
    spans = by_id(told.get_finished_spans())
    assert [task.trace and task.trace.traceparent for task in sent] == [
        context_below(spans[task.task_id]) for task in sent
    ]
    assert [spans[task.task_id].name for task in sent] == [f"send {task.task_type}" for task in sent]
    assert len({task.trace and task.trace.trace_id for task in sent}) == count
    assert not [span for span in spans.values() if span.parent is not None]


def test_a_task_that_names_a_trace_is_sent_in_it(told: InMemorySpanExporter) -> None:
    with sending([Task(task_type="a", trace=NAMED), Task(task_type="b")]) as ([named, other], _):
        pass
    spans = by_id(told.get_finished_spans())
    parent = spans[named.task_id].parent
    assert parent is not None
    assert f"{parent.span_id:016x}" == NAMED.span_id
    assert named.trace is not None
    assert named.trace.trace_id == NAMED.trace_id
    assert other.trace is not None
    assert other.trace.trace_id != NAMED.trace_id


def test_of_thousands_that_are_submitted_together_some_begin_a_trace(told: InMemorySpanExporter) -> None:
    with sending(some_tasks(1000)) as (sent, _):
        pass
    traced = [task for task in sent if task.trace is not None]
    assert len(traced) == len(told.get_finished_spans())
    assert BEGUN_A_SECOND <= len(traced) <= 3 * BEGUN_A_SECOND  # it may take more than a second


def test_within_a_span_all_belong_below_one(told: InMemorySpanExporter) -> None:
    tracer = tracing._teller.tracer  # type: ignore[union-attr]
    tasks = some_tasks(3)
    with tracer.start_as_current_span("mine") as mine, sending(tasks) as (sent, of_all):
        pass
    assert list(sent) == tasks
    [span, _] = told.get_finished_spans()
    assert of_all is not None
    assert of_all.traceparent == context_below(span)
    assert span.parent == mine.get_span_context()


def test_a_submission_that_fails_is_told_as_failed(told: InMemorySpanExporter) -> None:
    with pytest.raises(TimeoutError), sending(some_tasks(2)):
        raise TimeoutError
    assert [span.status.status_code for span in told.get_finished_spans()] == [trace.StatusCode.ERROR] * 2
