"""Tells spans to whoever listens in this process, through OpenTelemetry's API. Nothing of it is imported before.

Somebody listens when the program has given OpenTelemetry a provider, or when variables named OTEL_* ask a process of
ours to export spans (OpenTelemetry, Environment Variable Specification).
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from core.errors import ConfigError
from core.spans import SYSTEM, Span
from core.tasks import Task
from core.trace_context import TraceContext
from core.trace_starts import TraceStarts

__all__ = [
    "answering",
    "asked_for",
    "context_of",
    "flush",
    "go_below",
    "listen",
    "sending",
    "tell_spans",
    "trace_starts",
]

log = logging.getLogger(__name__)

#: Traces that a coordinator begins in a second, unless OTEL_TRACES_SAMPLER says how many: so a load of thousands of
#: tasks a second is seen by examples, and is not slowed down.
BEGUN_A_SECOND = 50
#: Seconds in which a process that ends hands over what it has told last.
FLUSH_S = 1.0

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
#: The names of exporters of OTLP among those that are installed, by protocol; the first is the usual one.
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
#: Variables of the SDK that bound what a span has.
_LIMITS = ("OTEL_SPAN_", "OTEL_ATTRIBUTE_", "OTEL_EVENT_ATTRIBUTE_", "OTEL_LINK_ATTRIBUTE_")
_CURE = "pip install 'agent-system[telemetry]', or in a checkout run .ci/setup requirements-telemetry.txt"


class _ChosenIds:
    """Gives the ids that were chosen for the next span; otherwise those of another generator."""

    def __init__(self, others: Any) -> None:
        self._others = others
        self.trace_id: int | None = None
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        chosen, self.trace_id = self.trace_id, None
        return int(self._others.generate_trace_id()) if chosen is None else chosen

    def generate_span_id(self) -> int:
        chosen, self.span_id = self.span_id, None
        return int(self._others.generate_span_id()) if chosen is None else chosen

    def is_trace_id_random(self) -> bool:
        return False


class _Teller:
    """Tells spans to a provider. Where that is not OpenTelemetry's SDK, they have other ids than they should."""

    def __init__(self, provider: Any, take: Callable[[Span], None] | None = None) -> None:
        """`take`: takes spans instead of the provider."""
        from opentelemetry import trace

        self._api = trace
        self.tell = take or self._tell
        self.provider = provider
        self.tracer = provider.get_tracer(SYSTEM)
        self._ids = _ChosenIds(getattr(self.tracer, "id_generator", None))
        self.tracer.id_generator = self._ids
        is_said = os.environ.get("OTEL_TRACES_SAMPLER")
        self.starts = TraceStarts(a_second=None if is_said else BEGUN_A_SECOND)  # of tasks that are sent together
        self._one_at_a_time = threading.Lock()  # between the choice of ids and their use

    def _tell(self, span: Span) -> None:
        api, trace = self._api, span.trace
        above = api.INVALID_SPAN if trace.span_id == span.span_id else api.NonRecordingSpan(context_of(trace))
        links = [api.Link(context_of(trace.below(span.link)))] if span.link else ()
        with self._one_at_a_time:
            self._ids.trace_id, self._ids.span_id = int(trace.trace_id, 16), int(span.span_id, 16)
            told = self.tracer.start_span(
                span.name,
                context=api.set_span_in_context(above),
                kind=api.SpanKind[span.kind.upper()],
                attributes=span.attributes,
                links=links,
                start_time=span.start_ns,
            )
            self._ids.trace_id = self._ids.span_id = None
        if span.error:
            told.set_attribute("error.type", span.error)
            told.set_status(api.StatusCode.ERROR)
        told.end(span.end_ns)


def context_of(trace: TraceContext) -> Any:
    """The same in OpenTelemetry's terms."""
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([trace.tracestate]) if trace.tracestate else None
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), True, flags, state)


_teller: _Teller | None = None
#: The trace that the request which is answered here has named.
_named: ContextVar[TraceContext | None] = ContextVar("named_trace", default=None)


def _listening() -> _Teller | None:
    """What tells spans; None: nobody listens, as far as is known by now."""
    global _teller
    if _teller is None and "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace

        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            _teller = _Teller(provider)
    return _teller


def tell_spans(spans: Sequence[Span]) -> None:
    """Tells spans that are over, if somebody listens."""
    if spans and (teller := _listening()) is not None:
        for span in spans:
            teller.tell(span)


def trace_starts(environ: Mapping[str, str] = os.environ) -> TraceStarts | None:
    """Which tasks begin a trace here; None: none does, since nobody listens. Raises ConfigError."""
    if _listening() is None:
        return None
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler == "traceidratio":
        try:
            return TraceStarts(share=float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1")))
        except ValueError:
            raise ConfigError(
                "OTEL_TRACES_SAMPLER_ARG is no number: set it to a share of 0 to 1, such as 0.1."
            ) from None
    if sampler in ("always_on", "always_off"):
        return TraceStarts(share=float(sampler == "always_on"))
    return TraceStarts(a_second=BEGUN_A_SECOND)


@contextmanager
def sending(tasks: Sequence[Task]) -> Iterator[tuple[Sequence[Task], TraceContext | None]]:
    """What is to be submitted within the block: the tasks, and the trace that their submission belongs to; None: none.

    Below a span that is open around it, they are in its trace, with a span for all of them. Otherwise each has a span
    of its own, which begins a trace unless the task names one; of several, BEGUN_A_SECOND do."""
    if "opentelemetry.trace" not in sys.modules or not tasks:
        yield tasks, _named.get()
        return
    from opentelemetry import trace

    teller, around = _listening(), trace.get_current_span()
    if not around.get_span_context().is_valid:
        with _spans_of_sending(teller, tasks) as traced:
            yield traced, _named.get()
    elif teller is None:
        yield tasks, _current(around)
    else:
        attributes = _of_sending(tasks[0])
        if len(tasks) > 1:
            attributes["messaging.batch.message_count"] = len(tasks)
            del attributes["messaging.message.id"]
        name, kind = f"send {tasks[0].task_type}", trace.SpanKind.PRODUCER
        with teller.tracer.start_as_current_span(name, kind=kind, attributes=attributes) as span:
            yield tasks, _current(span)


@contextmanager
def _spans_of_sending(teller: _Teller | None, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """The tasks, each below a span of its own, which are open within the block."""
    if teller is None:
        yield tasks
        return
    with ExitStack() as open_spans:
        yield [
            task.evolve(trace=_current(open_spans.enter_context(_span_of_sending(teller, task))))
            if task.trace or len(tasks) == 1 or teller.starts.one_more(int(time.monotonic()))
            else task
            for task in tasks
        ]


@contextmanager
def _span_of_sending(teller: _Teller, task: Task) -> Iterator[Any]:
    """A span for one task, which is open within the block, and is not that of anything else there."""
    from opentelemetry import context, trace

    above = context.Context()
    if task.trace is not None:
        above = trace.set_span_in_context(trace.NonRecordingSpan(context_of(task.trace)), above)
    name, kind = f"send {task.task_type}", trace.SpanKind.PRODUCER
    span = teller.tracer.start_span(name, above, kind, _of_sending(task))
    try:
        yield span
    except Exception as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        span.end()


def _of_sending(task: Task) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM, "messaging.operation.name": "send", "messaging.operation.type": "send",
        "messaging.destination.name": task.task_type, "messaging.message.id": task.task_id,
    }  # fmt: skip


def go_below(traceparent: str) -> None:
    """Has the spans that are opened here from now on belong below that one."""
    from opentelemetry import context, trace

    from core.runtime.span_above import SpanAbove

    context.attach(trace.set_span_in_context(SpanAbove(traceparent)))


def _current(span: Any) -> TraceContext | None:
    context = span.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return TraceContext.parsed(traceparent, context.trace_state.to_header())


@contextmanager
def answering(method: str, traceparent: str | None, tracestate: str | None) -> Iterator[Callable[[str, int], None]]:
    """Has what is submitted within the block be part of the trace that an HTTP request names, and tells a span of it.
    Yields what is to be called with its route and the status of the answer."""
    named = _named.set(TraceContext.parsed(traceparent, tracestate))
    try:
        if (teller := _listening()) is None:
            yield lambda route, status: None
            return
        from opentelemetry import trace

        above = _named.get()
        context = None
        if above is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(context_of(above)))
        with teller.tracer.start_as_current_span(method, context=context, kind=trace.SpanKind.SERVER) as span:

            def told(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                facts = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                span.set_attributes(facts)

            yield told
    finally:
        _named.reset(named)


# ---- processes of ours ----


def asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether variables ask for spans to be exported."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter != "none" if exporter else any(environ.get(name) for name in _ENDPOINTS)


def listen(service: str, instance: str = "") -> None:
    """Has this process export its spans if variables ask for it, as the `service`, unless OTEL_SERVICE_NAME says
    another name, and that `instance` of it. Raises ConfigError: what they ask for is not installed."""
    global _teller
    if not asked_for():
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from core.runtime.span_export import recording
    except ImportError:
        raise ConfigError(f"OTEL_* asks for traces, and the SDK of OpenTelemetry is not installed: {_CURE}") from None
    ours = {"service.name": service, **({"service.instance.id": instance} if instance else {})}
    named = {"service.name"} if "OTEL_SERVICE_NAME" in os.environ else set()
    resource = Resource.create({name: value for name, value in ours.items() if name not in named})
    provider = TracerProvider(resource=resource)
    names = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    processors = [BatchSpanProcessor(_exporter(name.strip(), resource)) for name in names]
    for processor in processors:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    _teller = _Teller(provider, None if _decides_anew() else recording(processors))


def _decides_anew(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether variables have the SDK look at each span: it samples again what is in a trace, or cuts what is long."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "always_on"
    looks = any(name.startswith(_LIMITS) for name in environ)
    return looks or not (sampler == "always_on" or sampler.startswith("parentbased_"))


def _exporter(name: str, resource: Any) -> Any:
    """The exporter of that name, which also exports records. Raises ConfigError."""
    from core.runtime.span_export import Lines, knowing_records

    if name == "console":
        return Lines(resource)
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = _OTLP.get(protocol or next(iter(_OTLP)), protocol or "")
    found = list(importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ConfigError(f"there is no exporter {name!r} of traces (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_*): {_CURE}")
    return knowing_records(found[0].load()(), resource)


def flush() -> None:
    """Hands over what was told last, for a process that ends. Takes FLUSH_S at most."""
    if _teller is not None and hasattr(_teller.provider, "force_flush"):
        handing_over = threading.Thread(target=_teller.provider.force_flush, daemon=True)
        handing_over.start()
        handing_over.join(FLUSH_S)
