"""The programs of the tiers, which core starts and draws by their names, since it may import no tier."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from core.module_names import module_name
from core.roles import Role

if TYPE_CHECKING:  # whoever only starts the tiers needs no LangGraph
    from core.tier_graph import TierGraph

__all__ = ["graph_of", "main_of"]


def main_of(tier: Role) -> Callable[[list[str]], int]:
    """The program of a tier, imported: it takes the flags and gives the exit code."""
    return cast(Callable[[list[str]], int], import_module(module_name(f"{tier.value}.__main__")).main)


def graph_of(tier: Role) -> TierGraph:
    """The graph of a tier, imported and compiled."""
    return cast("TierGraph", import_module(module_name(f"{tier.value}.graph")).build())
