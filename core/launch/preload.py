"""What a process does before it forks agents, so that they share it and none of them has to do it again."""

from __future__ import annotations

from collections.abc import Iterable

from core.launch.programs import graph_of, main_of
from core.roles import Role
from core.signing import key_id_of
from core.tier_graph import first_run

__all__ = ["preload"]


def preload(tiers: Iterable[Role]) -> None:
    """Imports the programs of these tiers, and does what takes longer the first time: with that, a forked worker is up
    after 36 ms of CPU time, not 50. Call it while there is one thread and no event loop."""
    for tier in tiers:
        main_of(tier)
        graph_of(tier)
    key_id_of(b"the secret of nobody")  # OpenSSL looks for an algorithm when it is first asked for one
    first_run()
