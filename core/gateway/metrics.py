"""What a gateway measures of itself and tells Prometheus, with the fleet as it is at that moment."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.agents import Health
from core.errors import AgentSystemError
from core.fleet_counts import FleetCounts
from core.roles import Role
from core.runtime.exposition import CONTENT_TYPE, expose, histograms
from core.runtime.measures import Histogram
from core.runtime.tracing import answering
from core.waiting_counts import WaitingFor

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["GatewayMeasures", "Measured", "fleet_metrics", "router"]

#: Requests of no route, whose paths could be anything.
NO_ROUTE = "(none)"

router = APIRouter(tags=["system"])


class Measured:
    """The part of the application that counts and times requests, also those that are not let in. Each is part of the
    trace that it names."""

    def __init__(self, app: ASGIApp, measures: GatewayMeasures) -> None:
        self._app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        measures, status, streams = self._measures, 500, scope["type"] == "websocket"
        method, headers = scope.get("method", "WEBSOCKET"), Headers(scope=scope)

        async def noting(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                if Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream"):
                    streams = True
                    measures.streams += 1
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        began_s = time.monotonic()
        measures.in_flight += 1
        measures.streams += streams
        try:
            with answering(method, headers.get("traceparent"), headers.get("tracestate")) as told:
                try:
                    await self._app(scope, receive, noting)
                finally:
                    route = getattr(scope.get("route"), "path", NO_ROUTE)
                    told(route, status)
        finally:
            measures.in_flight -= 1
            measures.streams -= streams
            measures.requests[method if method in METHODS else "(other)", route, str(status)] += 1
            if not streams:
                measures.durations[route].observe(time.monotonic() - began_s)


METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"))


class GatewayMeasures:
    """Of one gateway, for as long as its process lives. Its labels are routes, not paths."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()  #: by method, route and status
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)  #: by route, without streams
        self.in_flight = 0
        self.streams = 0


@router.get(
    "/metrics", operation_id="get_metrics", response_class=Response,
    responses={200: {"description": "Prometheus's text format", "content": {"text/plain": {}}}},
)  # fmt: skip
async def metrics(request: Request) -> Response:
    """What this gateway has counted, and the fleet as it is now, as Prometheus reads it."""
    measures: GatewayMeasures = request.app.state.measures
    counts = None
    with suppress(AgentSystemError):
        counts = await request.app.state.fleet_look.now()
    rejected = request.app.state.hierarchy.sealed.rejected
    text = expose(lambda: (*_of_gateway(measures, rejected), *fleet_metrics(counts)))
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


def _of_gateway(measures: GatewayMeasures, rejected: int) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    requests = CounterMetricFamily("gateway_requests", "Answered requests.", labels=["method", "route", "status"])
    for labels, number in measures.requests.items():
        requests.add_metric(labels, number)
    yield requests
    yield histograms("gateway_request_duration", "Until the answer was whole.", measures.durations, "route")
    yield GaugeMetricFamily("gateway_requests_in_flight", "That are being answered now.", measures.in_flight)
    yield GaugeMetricFamily("gateway_streams_open", "Event streams and WebSockets among those.", measures.streams)
    yield CounterMetricFamily("gateway_records_rejected", "Records that no agent has sealed, passed over.", rejected)


def fleet_metrics(counts: FleetCounts | None) -> Iterator[Metric]:
    """The metrics of a fleet; None: it cannot be read now."""
    from prometheus_client.core import GaugeMetricFamily

    yield GaugeMetricFamily("fleet_readable", "1 if the fleet could be read for this answer.", counts is not None)
    if counts is None:
        return
    agents = GaugeMetricFamily("fleet_agents", "All of this hierarchy.", labels=["role", "health"])
    available = GaugeMetricFamily("fleet_available_ratio", "Of a tier, the share that is up.", labels=["role"])
    inboxes = GaugeMetricFamily("fleet_unread_messages", "In the inboxes of a tier.", labels=["role"])
    for role, tier in counts.tiers.items():
        inboxes.add_metric([role.value], tier.unread)
        if (ratio := tier.available_ratio) is not None:
            available.add_metric([role.value], ratio)
        for health in Health:
            agents.add_metric([role.value, health.value], tier.by_health.get(health, 0))
    yield agents
    yield available
    yield inboxes
    workers = counts.tiers[Role.WORKER]
    tasks = GaugeMetricFamily("fleet_tasks", "By where they stand.", labels=["state"])
    for state, number in (
        ("open", counts.open_tasks),
        ("running", workers.running),
        ("queued_at_workers", workers.queued),
        ("asking", counts.asking),
        ("ended", counts.ended_tasks),
        ("dead", counts.dead_letters),
    ):
        tasks.add_metric([state], number)
    yield tasks
    waiting = GaugeMetricFamily("fleet_waiting_tasks", "Open tasks, by what they wait for.", labels=["reason"])
    for reason in WaitingFor:
        waiting.add_metric([reason.value], counts.waiting.get(reason, 0))
    yield waiting
    yield GaugeMetricFamily("fleet_slots", "Tasks that workers can run at once.", workers.slots)
    yield GaugeMetricFamily("fleet_quarantined_messages", "Kept as evidence.", sum(counts.quarantined.values()))
