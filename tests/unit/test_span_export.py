"""A span that is exported as a record of ours is the one that the SDK of OpenTelemetry would have made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core.runtime.otlp_encoding import encoded_spans
from core.runtime.span_export import Lines, Record, Translated
from core.runtime.tracing import _decides_anew, _Teller
from core.spans import Span
from core.trace_context import TraceContext

FIRST = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
BELOW = FIRST.below("53995c3f42cd8ad8")
OF_OTHERS = TraceContext(BELOW.traceparent, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
MOMENTS = 1_795_824_000_123_456_000, 1_795_824_001_000_000_000
RESOURCE = Resource({"service.name": "agent_system.worker"})

SPANS = {
    "the first of its trace": Span("task plan", FIRST, FIRST.span_id, *MOMENTS, {"messaging.system": "agent_system"}),
    "a retry that has failed": Span(
        "process plan", BELOW, "a3ce929d0e0e4736", *MOMENTS, {"agent_system.attempt.number": 2}, "consumer",
        "ValueError", "b7ad6b7169203331",
    ),
    "every kind of value": Span(
        "näher", OF_OTHERS, "a3ce929d0e0e4736", *MOMENTS,
        {"text": "ü" * 100, "none": "", "minus": -1, "many": 2**40, "part": 0.5, "yes": True, "no": False}, "client",
    ),
}  # fmt: skip
#: The same as the exporter of the SDK (1.45) encodes them.
ENCODED = {
    "the first of its trace": (
        "0a104bf92f3577b34da6a3ce929d0e0e4736120800f067aa0ba902b72a097461736b20706c616e30013900ca7ad6690cec18"
        "4100cab90a6a0cec184a220a106d6573736167696e672e73797374656d120e0a0c6167656e745f73797374656d7a00850100"
        "010000"
    ),
    "a retry that has failed": (
        "0a104bf92f3577b34da6a3ce929d0e0e47361208a3ce929d0e0e4736220853995c3f42cd8ad82a0c70726f6365737320706c"
        "616e30053900ca7ad6690cec184100cab90a6a0cec184a210a1b6167656e745f73797374656d2e617474656d70742e6e756d"
        "626572120218024a1a0a0a6572726f722e74797065120c0a0a56616c75654572726f726a210a104bf92f3577b34da6a3ce92"
        "9d0e0e47361208b7ad6b716920333135000300007a021802850100030000"
    ),
    "every kind of value": (
        "0a104bf92f3577b34da6a3ce929d0e0e47361208a3ce929d0e0e47361a27726f6a6f3d303066303637616130626139303262"
        "372c636f6e676f3d7436317263576b674d7a45220853995c3f42cd8ad82a066ec3a468657230033900ca7ad6690cec184100"
        "cab90a6a0cec184ad4010a047465787412cb010ac801c3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bc"
        "c3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bc"
        "c3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bc"
        "c3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bc"
        "c3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bcc3bc4a0a0a046e6f6e6512020a004a140a056d696e7573120b18ffffffff"
        "ffffffffff014a0f0a046d616e791207188080808080204a110a0470617274120921000000000000e03f4a090a0379657312"
        "0210014a080a026e6f120210007a00850100030000"
    ),
}  # fmt: skip


def exported(exporter: Any, span: Span, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    exporter.export([Record(span)])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def told_to_the_sdk(span: Span) -> list[dict[str, Any]]:
    kept, provider = InMemorySpanExporter(), TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    _Teller(provider).tell(span)
    return [json.loads(told.to_json()) for told in kept.get_finished_spans()]


@pytest.mark.parametrize("name", SPANS)
def test_a_line_says_what_the_sdk_would_say(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [exported(Lines(RESOURCE), SPANS[name], capsys)] == told_to_the_sdk(SPANS[name])


@pytest.mark.parametrize("name", SPANS)
def test_another_exporter_gets_what_the_sdk_would_have_made(name: str) -> None:
    kept = InMemorySpanExporter()
    Translated(kept, RESOURCE).export([Record(SPANS[name])])
    told = [json.loads(span.to_json()) for span in kept.get_finished_spans()]
    for link in (link for span in told for link in span["links"]):
        assert not link["attributes"]
        link["attributes"] = {}
    assert told == told_to_the_sdk(SPANS[name])


@pytest.mark.parametrize("name", SPANS)
def test_over_the_wire_a_span_is_what_the_sdk_would_send(name: str) -> None:
    spans = bytes.fromhex(ENCODED[name])
    length = bytes((len(spans),)) if len(spans) < 128 else bytes((len(spans) % 128 + 128, len(spans) // 128))
    assert encoded_spans([SPANS[name]]) == b"\x12" + length + spans


def test_a_span_with_a_text_that_is_no_unicode_is_exported_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    odd = Span("node \ud800", FIRST, FIRST.span_id, *MOMENTS, {"agent_system.node.name": "\ud800", "huge": 2**70})
    assert exported(Lines(RESOURCE), odd, capsys)["name"] == "node \ud800"
    assert b"node ?" in encoded_spans([odd])


@pytest.mark.parametrize(
    ("variables", "looks"),
    [
        ({}, False),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, True),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, True),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20"}, True),
    ],
)
def test_spans_go_through_the_sdk_where_variables_have_it_look_at_each(variables: dict[str, str], looks: bool) -> None:
    assert _decides_anew(variables) is looks
