"""The worker's graph: take the batch, report what has become of attempts. Running them is an effect."""

from __future__ import annotations

from functools import partial

from core.tier_graph import built, stage
from worker.rules import has_news, receive, report

__all__ = ["build"]

STAGES = (stage(receive), stage(report, due=has_news))

build = partial(built, "worker", STAGES)
