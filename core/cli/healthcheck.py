"""`agents healthcheck`: whether an agent lives, and whether it is ready. `core.cli.probe` does the work, and runs alone
unless help or an error message is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cli.probe import ask, target
from core.cli.session import settings

__all__ = ["healthcheck"]


def healthcheck(
    url: Annotated[str, typer.Argument(metavar="[URL]", help="http://HOST:PORT of an agent elsewhere.")] = "",
    port: Annotated[str, typer.Option(metavar="PORT", help="Of this machine; default: AGENT_HEALTH_PORT.")] = "",
    live: Annotated[bool, typer.Option("--live", help="Ask /livez: does it live? Else /readyz: is it ready?")] = False,
) -> None:
    """Ask an agent that was started with --health-port how it is: exit code 0 or 1.

    Cheap enough to be run as a probe every few seconds.
    """
    if not url and not port:
        port = str(settings().agent.health_port or "")
    try:
        host, number, path = target(url, port, live)
    except ValueError as error:
        raise typer.BadParameter(f"{error}. Give --port, http://HOST:PORT, or set AGENT_HEALTH_PORT.") from None
    raise typer.Exit(ask(host, number, path))
