"""`agents graph`: the LangGraph graph of a tier, as a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cli.render import print_json
from core.launch.programs import graph_of
from core.roles import Role

__all__ = ["graph"]


def graph(
    role: Annotated[str, typer.Argument(help="coordinator, distributor or worker.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: nodes and edges.")] = False,
) -> None:
    """Print the LangGraph graph of a tier as a Mermaid picture.

    Any Markdown viewer that knows Mermaid draws it; dotted are the ways that not every run takes.
    """
    tiers = {tier.value: tier for tier in (Role.COORDINATOR, Role.DISTRIBUTOR, Role.WORKER)}
    if role not in tiers:
        raise typer.BadParameter(f"{role!r} is no tier: {', '.join(tiers)}", param_hint="ROLE")
    drawn = graph_of(tiers[role]).graph.get_graph()
    if as_json:
        edges = [{"from": edge.source, "to": edge.target, "always": not edge.conditional} for edge in drawn.edges]
        print_json({"nodes": list(drawn.nodes), "edges": edges})
    else:
        print(drawn.draw_mermaid(), end="")
