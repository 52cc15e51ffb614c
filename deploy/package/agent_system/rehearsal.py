"""Rehearsals, for programs: `from agent_system.rehearsal import rehearse, scenario`.
Each name is loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `agent_system`
if TYPE_CHECKING:
    from core.rehearsal import Recorded, Rehearsal, Scenario, rehearse, scenario
else:

    def __getattr__(name):
        return getattr(import_module(".core.rehearsal", __package__), name)


__all__ = ["Recorded", "Rehearsal", "Scenario", "rehearse", "scenario"]
