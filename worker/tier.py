"""The worker, for what runs its graph without its program."""

from __future__ import annotations

from typing import get_args

from core.runtime.tier import Tier
from core.step import Drain, HeartbeatDue
from worker.agent import WorkerBehaviour
from worker.authoring.registry import Handlers
from worker.rules import WorkerEvent

__all__ = ["TIER"]

TIER = Tier(
    # Its graph decides the same whatever handlers there are.
    behaviour=lambda chain, config: WorkerBehaviour(chain, config, Handlers(), (), ()),
    events=(*get_args(WorkerEvent), Drain, HeartbeatDue),
    requests=(),
)
