"""`agents key`: an agent's own key, for a machine that is not to have the root secret."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cli.render import note
from core.cli.session import settings

__all__ = ["key"]


def key(
    role: Annotated[str, typer.Argument(help="coordinator, distributor, worker or client.")],
    agent_id: Annotated[str, typer.Argument(metavar="ID")],
    coordinator: Annotated[str | None, typer.Option(metavar="ID", help="Default: COORDINATOR_ID.")] = None,
    distributor: Annotated[str | None, typer.Option(metavar="ID", help="A worker's; default: DISTRIBUTOR_ID.")] = None,
) -> None:
    """Print an agent's own key, for A2A_AGENT_KEY.

    With it, an agent can be itself and nobody else; it needs no A2A_TOKEN_SECRET.
    """
    from core.roles import Address, Role
    from core.runtime.wiring import keys_for

    if role not in set(Role):
        raise typer.BadParameter(f"{role!r} is none of {', '.join(Role)}", param_hint="ROLE")
    configured = settings()
    chain = [
        Address.of(
            Role.COORDINATOR, coordinator or (agent_id if role == Role.COORDINATOR else configured.coordinator_id)
        )
    ]
    if role == Role.WORKER:
        chain.append(Address.of(Role.DISTRIBUTOR, distributor or configured.distributor_id))
    if role != Role.COORDINATOR:
        chain.append(Address.of(Role(role), agent_id))
    text = keys_for(tuple(chain), configured.a2a, configured.redis).export()
    note(f"The key of {' / '.join(map(str, chain))}. It is a secret: give it to that agent alone, as A2A_AGENT_KEY.")
    print(text)
