"""The metrics of one agent as Prometheus reads them (Prometheus, Exposition formats: text-based format).

Names and units follow Prometheus's conventions: seconds, `_total` for what only grows. Labels have few values, and none
comes from a payload. The library for it is imported when somebody asks for the first time, since most agents are never
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from core.errors import NotPermitted
from core.roles import Address
from core.runtime.measures import BOUNDS_S, Histogram

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

    from core.runtime.agent import Agent
    from core.runtime.behaviour import Figures

__all__ = ["CONTENT_TYPE", "expose", "exposition", "histograms"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Histograms without labels, as they are called here and there.
HISTOGRAMS = {
    "step": ("agent_step_duration", "Graph, commit and effects of one batch."),
    "commit": ("agent_commit_duration", "Transaction of one step."),
    "lease_acquisition": ("agent_lease_acquisition", "Until the lease was taken, with the wait of a standby."),
    "lease_renewal": ("agent_lease_renewal", "Renewals that no other command could carry."),
}


def exposition(agent: Agent) -> bytes:
    """All metrics of an agent, in whatever condition it is. Costs about a millisecond; it reads what the agent keeps in
    memory and asks nobody."""
    return expose(lambda: _of_agent(agent))


def expose(metrics: Callable[[], Iterable[Metric]]) -> bytes:
    """These metrics as text."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Collector:
        def collect(self) -> Iterable[Metric]:
            return metrics()

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def _of_agent(agent: Agent) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    def counter(name: str, help_text: str, values: Mapping[str, float], label: str) -> Metric:
        family = CounterMetricFamily(name, help_text, labels=[label])
        for value, number in values.items():
            family.add_metric([value], number)
        return family

    me, condition, measures, figures = agent.chain[-1], agent.condition, agent.measures, agent.figures
    yield InfoMetricFamily("agent", "Which agent this is.", {**_who(agent.chain)})
    yield GaugeMetricFamily("agent_alive", "1 while its loop turns; 0: replace it.", condition.alive)
    yield GaugeMetricFamily("agent_ready", "1 while it does its work, or waits as a standby.", condition.ready)
    gauge = GaugeMetricFamily("agent_tasks", "What it has now, by state.", labels=["state"])
    for state, number in figures.gauges.items():
        gauge.add_metric([state], number)
    yield gauge
    yield from _of_tier(figures)
    yield counter("agent_task_events", f"What this {me.role} has counted since its start.", figures.counts, "event")
    yield histograms("agent_attempt_duration", "Attempts that ended here.", measures.attempts, "task_type", "status")
    yield counter("agent_attempt_failures", "By the type of their error.", measures.failures, "error")
    yield histograms(
        "agent_message_latency", "From the signature to the step that acts on it.", measures.message_latency, "action"
    )
    yield counter("agent_heartbeats", "Its own, and those of its children.", measures.heartbeats, "direction")
    yield counter("agent_decisions", "Lines that its steps have logged, by action.", measures.decisions, "decision")
    for attribute, (name, help_text) in HISTOGRAMS.items():
        yield histograms(name, help_text, {(): getattr(measures, attribute)})
    yield CounterMetricFamily("agent_lease_renewal_failures", "Renewals that failed.", measures.lease_renewal_failures)
    for duration, histogram in measures.durations.items():
        yield histograms(f"agent_{duration}", duration.name.replace("_", " ").capitalize() + ".", {(): histogram})
    yield from _of_loop(agent)


def histograms(name: str, help_text: str, found: Mapping[Any, Histogram], *labels: str) -> Metric:
    """A metric of durations, by the values of its labels."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help_text, labels=labels, unit="seconds")
    for values, histogram in found.items():
        _add(family, [values] if isinstance(values, str) else list(values), histogram)
    return family


def _of_tier(figures: Figures) -> Iterator[Metric]:
    """What only an agent has that hands tasks out."""
    from prometheus_client.core import GaugeMetricFamily

    if not figures.queued:
        return
    found: tuple[tuple[str, str, str, Mapping[Any, int]], ...] = (
        ("agent_queued_tasks", "What waits here to be handed out.", "priority", figures.queued),
        ("agent_children", "Agents below this one.", "health", figures.children),
        ("agent_children_by_load", "The same, by how full they are.", "load", figures.loads),
    )
    for name, help_text, label, numbers in found:
        gauge = GaugeMetricFamily(name, help_text, labels=[label])
        for value, number in numbers.items():
            gauge.add_metric([value], number)
        yield gauge
    yield GaugeMetricFamily(
        "agent_oldest_queued_seconds", "How long the first task that could be handed out has waited.",
        figures.oldest_queued_s,
    )  # fmt: skip


def _of_loop(agent: Agent) -> Iterator[Metric]:
    """What only an agent at work has."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    loop = agent.loop_at_work
    if loop is None:
        return
    messages = CounterMetricFamily(
        "agent_messages", "Without those of clients.", labels=["direction", "action", "role"]
    )
    for direction, counts in (("sent", loop.outbox.counts), ("received", loop.inbox.counts)):
        for (action, role), number in _by_role(counts).items():
            messages.add_metric([direction, action, role], number)
    yield messages
    rejected = CounterMetricFamily("agent_messages_rejected", "Bad signatures, replays, others.", labels=["reason"])
    for reason, number in loop.inbox.rejected.items():
        rejected.add_metric([reason], number)
    yield rejected
    yield CounterMetricFamily(
        "agent_routing_errors", "Messages for another agent, or that their sender may not send to this one.",
        loop.inbox.rejected[NotPermitted.reason],
    )  # fmt: skip
    yield CounterMetricFamily("agent_steps", "Batches that its graph was given.", loop.report.ticks)
    yield GaugeMetricFamily("agent_state_version", "Commits of this agent's state.", loop.committer.lease.version)
    yield CounterMetricFamily("agent_state_conflicts", "Transactions sent again.", loop.committer.conflicts)
    yield CounterMetricFamily("agent_state_fenced", "Commits refused without a lease.", loop.committer.fenced)
    yield GaugeMetricFamily("agent_stalled_seconds", "How long there has been work undone.", loop.watchdog.stalled_s)
    if (ahead_ms := loop.setup.clock.machine_ahead_ms) is not None:
        yield GaugeMetricFamily("agent_clock_ahead_seconds", "This machine's before the server's.", ahead_ms / 1000)


def _who(chain: tuple[Address, ...]) -> dict[str, str]:
    return {"role": chain[-1].role.value, "agent_id": chain[-1].agent_id, "coordinator_id": chain[0].agent_id}


def _by_role(counts: Mapping[tuple[Address, str], int]) -> dict[tuple[str, str], int]:
    """Messages by action and role: there may be very many agents."""
    found: dict[tuple[str, str], int] = {}
    for (address, action), number in counts.items():
        found[action, address.role.value] = found.get((action, address.role.value), 0) + number
    return found


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
    family.add_metric(labels, buckets, sum_value=histogram.total_s)
