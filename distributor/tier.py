"""The distributor, for what runs its graph without its program."""

from __future__ import annotations

from typing import get_args

from core.runtime.tier import Tier
from core.step import Call
from distributor.agent import DistributorBehaviour
from distributor.state import DistributorEvent, DistributorRequest

__all__ = ["TIER"]

TIER = Tier(
    behaviour=lambda chain, config: DistributorBehaviour(chain[-1], chain[0], config),
    events=tuple(kind for kind in get_args(DistributorEvent) if kind is not Call),
    requests=get_args(DistributorRequest),
)
