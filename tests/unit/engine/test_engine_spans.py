"""Spans of messages, through OpenTelemetry's API."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.engine import MessageContext, TopicId, TypeSubscription
from tests.engine_agents import Does, Note, agent, engine_with


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def tree(spans: tuple[ReadableSpan, ...]) -> set[tuple[str, str | None]]:
    """Each span's name without its prefix, and that of the one it is below."""
    names = {span.context.span_id: span.name.removeprefix("agent_engine ") for span in spans if span.context}
    return {
        (names[span.context.span_id], names.get(span.parent.span_id) if span.parent else None)
        for span in spans
        if span.context
    }


async def test_a_request_is_one_trace_from_its_creation_to_its_response(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    engine = await engine_with("a", tracer_provider=provider)
    with provider.get_tracer("test").start_as_current_span("program"):
        await engine.send_message(Note("secret"), agent("a"), sender=agent("b"))
    await engine.close()
    spans = exporter.get_finished_spans()
    assert tree(spans) == {
        ("program", None),
        ("create a/default", "program"),
        ("send a/default", "create a/default"),
        ("process a/default", "send a/default"),
        ("ack b/default", "create a/default"),
    }
    assert "secret" not in "".join(span.to_json() for span in spans)


async def test_what_a_handler_publishes_and_asks_belongs_to_the_trace_of_its_message(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async def publishes(does: Does, ctx: MessageContext) -> None:
        await does.publish_message(Note(), TopicId("news", "default"))

    engine = await engine_with("a", "b", tracer_provider=provider)
    await engine.subscribe(TypeSubscription("news", "b"))
    await engine.send_message(publishes, agent("a"))
    await engine.stop_when_idle()
    assert tree(exporter.get_finished_spans()) >= {
        ("create news/default", "process a/default"),
        ("publish b/default", "create news/default"),
        ("process b/default", "publish b/default"),
    }


async def test_an_error_is_recorded_in_the_spans_that_it_passes(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async def fails(does: Does, ctx: MessageContext) -> None:
        raise ValueError("broken")

    engine = await engine_with("a", tracer_provider=provider)
    with pytest.raises(ValueError, match="broken"):
        await engine.send_message(fails, agent("a"))
    await engine.close()
    failed = {span.name.split()[1] for span in exporter.get_finished_spans() if not span.status.is_ok}
    assert failed == {"create", "send", "process"}


async def test_nothing_is_traced_where_nobody_listens() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    engine = await engine_with("a")
    with trace.use_span(trace.INVALID_SPAN):
        assert await engine.send_message(Note(), agent("a")) == Note()
    await engine.close()
