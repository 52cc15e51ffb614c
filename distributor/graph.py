"""The distributor's graph: take the batch, look who is there once a heartbeat, hand out."""

from __future__ import annotations

from functools import cache

from core.tier_graph import TierGraph, stage, tier_graph
from distributor.rules import dispatch, receive, survey

__all__ = ["build"]

STAGES = (stage(receive), stage(survey, due=lambda batch: batch.beating), stage(dispatch))


@cache
def build() -> TierGraph:
    """The compiled graph, ready to run, one for all agents of a process."""
    return tier_graph("distributor", STAGES)
