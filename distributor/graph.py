"""The distributor's graph: take the batch, look who is there once a heartbeat, hand out."""

from __future__ import annotations

from functools import partial

from core.tier_graph import built, stage
from distributor.rules import dispatch, receive, survey

__all__ = ["build"]

STAGES = (stage(receive), stage(survey, due=lambda batch: batch.beating), stage(dispatch))

build = partial(built, "distributor", STAGES)
