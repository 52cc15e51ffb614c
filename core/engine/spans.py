"""Spans of messages, through OpenTelemetry's API, if that is installed and somebody listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

from core.engine.envelopes import Envelope, ResponseMessageEnvelope

__all__ = ["Spans", "TracerProvider"]

Operation = Literal["create", "send", "publish", "process", "ack"]
#: Those of who has the message; the others are of who gets it.
OF_THE_PRODUCER = {"create", "send", "publish"}

_NO_SPAN = nullcontext()


class TracerProvider(Protocol):
    """OpenTelemetry's, or what acts like it."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Any: ...


class Spans:
    """Opens spans with this provider; without one, with the one that OpenTelemetry has been given for the program."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer: Any = None
        self.look()

    def look(self) -> None:
        """Looks whether somebody listens by now."""
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            return
        provider = self._provider or trace.get_tracer_provider()
        if self._provider is None and isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return
        self._kinds = trace.SpanKind
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("agent_system.engine")

    def of_message(
        self, operation: Operation, envelope: Envelope | ResponseMessageEnvelope, destination: object
    ) -> AbstractContextManager[None]:
        """A span that is open within the block. `create` begins below what is open where it is sent, and leaves its
        trace in the envelope; `process` is within `send` or `publish`; all others begin below what that says."""
        return _NO_SPAN if self._tracer is None else self._open(operation, envelope, destination)

    @contextmanager
    def _open(
        self, operation: Operation, envelope: Envelope | ResponseMessageEnvelope, destination: object
    ) -> Iterator[None]:
        name = "" if destination is None else str(destination)
        below = envelope.metadata if operation != "process" else None
        with self._tracer.start_as_current_span(
            f"agent_engine {operation} {name}".rstrip(),
            context=None if below is None else self._propagator.extract(below),
            kind=self._kinds.PRODUCER if operation in OF_THE_PRODUCER else self._kinds.CONSUMER,
            attributes={
                "messaging.operation": operation,
                "messaging.destination": name,
                "messaging.message.type": type(envelope.message).__name__,
            },
        ):
            if operation == "create":
                carrier: dict[str, str] = {}
                self._propagator.inject(carrier)
                envelope.metadata = carrier
            yield
