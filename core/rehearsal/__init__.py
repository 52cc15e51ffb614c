"""Rehearsals: a whole hierarchy in virtual time, with faults and an order that a seed decides, which replay."""

from __future__ import annotations

from core.rehearsal.recorded import Recorded
from core.rehearsal.rehearsing import rehearse
from core.rehearsal.scenario import Rehearsal, Scenario, scenario

__all__ = ["Recorded", "Rehearsal", "Scenario", "rehearse", "scenario"]
