"""The worker's graph: take the batch, report what has become of attempts. Running them is an effect."""

from __future__ import annotations

from functools import cache

from core.tier_graph import TierGraph, stage, tier_graph
from worker.rules import has_news, receive, report

__all__ = ["build"]

STAGES = (stage(receive), stage(report, due=has_news))


@cache
def build() -> TierGraph:
    """The compiled graph, ready to run, one for all agents of a process."""
    return tier_graph("worker", STAGES)
