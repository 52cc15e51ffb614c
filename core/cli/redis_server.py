"""`agents redis`: the embedded server, which agents start by themselves when no other Redis answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import Yes, confirm, note, print_json, print_table
from core.cli.session import looking, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="This machine's own server.", no_args_is_help=True)


@app.command()
def start() -> None:
    """Start the server, unless one answers at the configured address. It ends 30 s after its last client has gone."""
    from core.config.settings import with_client_certificate
    from core.embedded_server.embedded import ensure_server_blocking, status

    configured = settings()
    ensure_server_blocking(with_client_certificate(configured.redis, configured.a2a))
    server = status(configured.redis)
    if server is None:
        note(f"nothing to start: a Redis answers at {configured.redis.endpoint}.")
    else:
        note(
            f"{server.version} listens on port {server.port} (process {server.server_pid}); data in {server.directory}"
        )


@app.command()
def stop(yes: Yes = False) -> None:
    """Write the server's data and end it. Agents that use it wait until it is back; while some live, it asks first."""
    from core.embedded_server.embedded import status, stop

    configured = settings()
    if not yes and status(configured.redis) and (living := run(_living(configured))):
        confirm(f"{', '.join(living[:5])}{', ...' if len(living) > 5 else ''} will wait until it is back. End it?")
    note("ended; its data are kept." if stop(config=configured.redis) else "none was running.")


async def _living(configured: Settings) -> list[str]:
    """The agents that use the server."""
    from core.operations.fleet_counts import read_fleet_counts

    async with looking(configured) as reader:
        counts = await read_fleet_counts(reader, configured.coordinator_id, configured.agent)
        return [f"{agent.chain[-1]}" for agent in counts.agents if agent.up]


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show whether the server runs, and where its data are. The exit code is 69 if it does not run."""
    from core.embedded_server.embedded import status
    from core.errors import WorldError

    server = status(settings().redis)
    if as_json:
        print_json(asdict(server) if server else None)
    elif server:
        print_table(
            ("FIELD", "VALUE~"), [(name.replace("_", " "), f"{value}") for name, value in asdict(server).items()]
        )
    else:
        note("it does not run. It starts by itself when it is needed, or with: agents redis start")
    if server is None:
        raise typer.Exit(WorldError.exit_code)
