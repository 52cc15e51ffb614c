"""The coordinator's graph: take the batch, look who is there once a heartbeat, hand out."""

from __future__ import annotations

from functools import cache

from coordinator.rules import dispatch, receive, survey
from core.tier_graph import TierGraph, stage, tier_graph

__all__ = ["build"]

STAGES = (stage(receive), stage(survey, due=lambda batch: batch.beating), stage(dispatch))


@cache
def build() -> TierGraph:
    """The compiled graph, ready to run, one for all agents of a process."""
    return tier_graph("coordinator", STAGES)
