"""The coordinator's graph: take the batch, look who is there once a heartbeat, hand out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from coordinator.rules import dispatch, receive, survey
from core.tier_graph import After, Before, TierGraph, stage, tier_graph, with_added

__all__ = ["build"]

STAGES = (stage(receive), stage(survey, due=lambda batch: batch.beating), stage(dispatch))


def build(nodes: Sequence[Before | After] = ()) -> TierGraph:
    """The compiled graph, ready to run, with the nodes of a program that holds the agent. Raises ConfigError: one of
    them cannot be put where it is meant to be."""
    return tier_graph("coordinator", with_added(STAGES, nodes)) if nodes else _common()


@cache
def _common() -> TierGraph:
    """One for all agents of a process."""
    return tier_graph("coordinator", STAGES)
