"""The coordinator, for what runs its graph without its program."""

from __future__ import annotations

from typing import get_args

from coordinator.agent import CoordinatorBehaviour
from coordinator.state import CoordinatorEvent, CoordinatorRequest
from core.runtime.tier import Tier
from core.step import Call

__all__ = ["TIER"]

TIER = Tier(
    behaviour=lambda chain, config: CoordinatorBehaviour(chain[-1].agent_id, config),
    events=tuple(kind for kind in get_args(CoordinatorEvent) if kind is not Call),
    requests=get_args(CoordinatorRequest),
)
