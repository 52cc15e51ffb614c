"""The programs of the tiers. `core` starts, draws and replays them by name, since it may not import a tier."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from core.module_names import module_name
from core.roles import Role

if TYPE_CHECKING:  # starting a tier does not need LangGraph here
    from core.runtime.tier import Tier
    from core.tier_graph import TierGraph

__all__ = ["graph_of", "main_of", "tier_of", "worker_in_process"]


def main_of(tier: Role) -> Callable[[list[str]], int]:
    """Imports the program of a tier, and returns its main function, which takes the flags and returns the exit code."""
    return cast(Callable[[list[str]], int], import_module(module_name(f"{tier.value}.__main__")).main)


def graph_of(tier: Role) -> TierGraph:
    """Imports a tier, and returns its compiled graph."""
    return cast("TierGraph", import_module(module_name(f"{tier.value}.graph")).build())


def tier_of(role: Role) -> Tier:
    """Imports a tier, and returns what it is made of."""
    return cast("Tier", import_module(module_name(f"{role.value}.tier")).TIER)


def worker_in_process() -> Callable[..., Any]:
    """Imports the worker, and returns what makes the behaviour of one whose attempts run in this process."""
    return cast("Callable[..., Any]", import_module(module_name(f"{Role.WORKER.value}.tier")).in_process)
