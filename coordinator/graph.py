"""The coordinator's graph: it receives the batch, surveys the distributors at each heartbeat, and dispatches tasks."""

from __future__ import annotations

from functools import partial

from coordinator.rules import dispatch, receive, survey
from core.tier_graph import built, stage

__all__ = ["build"]

STAGES = (stage(receive), stage(survey, due=lambda batch: batch.beating), stage(dispatch))

build = partial(built, "coordinator", STAGES)
