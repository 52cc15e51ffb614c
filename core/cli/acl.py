"""`agents acl`: a Redis user for each agent, which may do only what its role requires."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.cli.render import note
from core.cli.session import chain_of, settings

__all__ = ["acl"]


def acl(
    role: Annotated[str, typer.Argument(help="coordinator, distributor, worker, client, operator or stream.")],
    agent_id: Annotated[str, typer.Argument(metavar="ID", help="An agent's id; of an agent stream, its name.")],
    coordinator: Annotated[str | None, typer.Option(metavar="ID", help="Default: COORDINATOR_ID.")] = None,
    distributor: Annotated[str | None, typer.Option(metavar="ID", help="A worker's; default: DISTRIBUTOR_ID.")] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="Of a client or operator: it runs a gateway.")] = False,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file with its password, of which only a hash is printed.")
    ] = None,
) -> None:
    """Print the ACL SETUSER line that gives an agent, or the programs of an agent stream, a Redis user of their own.

    For Redis 7 or Valkey: pipe it into redis-cli. Without --password-file nobody can enter as that user yet.
    """
    from core.operations.acl import rules_of, rules_of_gateway, rules_of_stream, user_of
    from core.roles import ASKERS

    configured = settings()
    db = configured.redis.endpoint.db
    if role == "stream":
        user, rules = f"stream:{agent_id}", rules_of_stream(agent_id, db)
    else:
        chain = chain_of(configured, role, agent_id, coordinator, distributor)
        if gateway and chain[-1].role not in ASKERS:
            raise typer.BadParameter("a gateway is a client or an operator", param_hint="--gateway")
        user, rules = user_of(chain), (rules_of_gateway if gateway else rules_of)(chain, db)
    password = [f"#{_hashed(password_file)}"] if password_file else []
    note(
        f"It enters with REDIS_USERNAME={user}"
        + ("" if password else f", once it has a password: --password-file, or ACL SETUSER {user} >PASSWORD")
    )
    print("ACL SETUSER", user, "reset", "on", *password, *rules)


def _hashed(path: Path) -> str:
    """The hash of the password in a file, in the format of Redis. Raises ConfigError."""
    import hashlib

    from core.errors import ConfigError

    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Write the user's password there.") from error
    if not password:
        raise ConfigError(f"{path} is empty. Write the user's password there.")
    return hashlib.sha256(password.encode()).hexdigest()
