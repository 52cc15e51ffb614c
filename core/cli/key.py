"""`agents key`: an agent's own key, for a machine without the root secret, and the revocation of stolen keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from core.cli.render import note, print_table
from core.cli.session import chain_of, looking, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.revocation import Revocation
    from core.roles import Address

__all__ = ["app"]


class _ShowsUnlessTold(TyperGroup):
    """Makes `agents key ROLE ID` the same as `agents key show ROLE ID`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowsUnlessTold,
    help="Print an agent's own key: agents key ROLE ID. Revoke the id of one that was stolen.",
    no_args_is_help=True,
)

RoleName = Annotated[str, typer.Argument(metavar="ROLE", help="coordinator, distributor, worker, client or operator.")]
Id = Annotated[str, typer.Argument(metavar="ID")]
Coordinator = Annotated[str | None, typer.Option(metavar="ID", help="Default: COORDINATOR_ID.")]
Distributor = Annotated[str | None, typer.Option(metavar="ID", help="A worker's; default: DISTRIBUTOR_ID.")]


@app.command()
def show(role: RoleName, agent_id: Id, coordinator: Coordinator = None, distributor: Distributor = None) -> None:
    """Print an agent's own key, for A2A_AGENT_KEY. `agents key ROLE ID` is the same.

    With it, an agent can be itself and nobody else; it needs no A2A_TOKEN_SECRET.
    """
    from core.wiring import keys_for

    configured = settings()
    chain = chain_of(configured, role, agent_id, coordinator, distributor)
    text = keys_for(chain, configured.a2a, configured.redis).export()
    note(f"The key of {_named(chain)}. It is a secret: give it to that agent alone, as A2A_AGENT_KEY.")
    print(text)


@app.command()
def revoke(role: RoleName, agent_id: Id, coordinator: Coordinator = None, distributor: Distributor = None) -> None:
    """Retire an id for good, since its key was stolen: from now on its parent believes nothing said in its name.

    Takes the root secret, or as A2A_AGENT_KEY the key of its parent. What it had is given to others.
    """
    from core.errors import UserError
    from core.operations.acl import user_of

    configured = settings()
    chain = chain_of(configured, role, agent_id, coordinator, distributor)
    if len(chain) == 1:
        raise UserError(
            "a coordinator has no parent that could disown it, and its key is as good as the root for every agent below"
            " it. Set a new A2A_TOKEN_SECRET everywhere at once, without A2A_PREVIOUS_SECRET."
        )
    run(_revoke(configured, chain))
    note(
        f"{_named(chain)} is revoked, for as long as the root secret is this one. Its parent knows within a heartbeat."
        f"\nNow shut it out of Redis as well:  ACL DELUSER {user_of(chain)}"
        "\nChange a Redis password that it shared with others. Stop it, and give its machine another id, with a key and"
        " a user of its own. `agents status` shows who is there."
        "\nWhat was sent in its name since then:  agents dlq list --quarantined"
    )


@app.command()
def revoked(coordinator: Coordinator = None) -> None:
    """List the revoked ids, and whether their proof is valid: whoever can write to Redis can add a line that has no
    effect, or remove one."""
    configured = settings()
    coordinator_id = coordinator or configured.coordinator_id
    found = run(_revocations(configured, coordinator_id))
    rows = dict.fromkeys(
        (_named(revocation.chain), _proof(configured, coordinator_id, revocation)) for revocation in found
    )
    print_table(("ID", "PROOF~"), list(rows))
    if not rows:
        note("no id is revoked.")


def _named(chain: tuple[Address, ...]) -> str:
    return " / ".join(map(str, chain))


async def _revoke(configured: Settings, chain: tuple[Address, ...]) -> None:
    """Revokes the last address of the chain. Raises UserError when the stored list is full."""
    from core.errors import UserError
    from core.redis_backend.keys import CoordinatorKeys
    from core.revocation import MAX_BYTES, lines_of
    from core.wiring import keys_for

    key = CoordinatorKeys(chain[0].agent_id).revoked
    async with looking(configured) as reader:
        lines = lines_of(chain, keys_for(chain[:-1], configured.a2a, configured.redis))
        [length] = await reader.run(("STRLEN", key))
        if length + len(lines) > MAX_BYTES:
            raise UserError(
                f"{key} has {length} bytes: more than can be read. `agents key revoked` shows what is stored; remove"
                " it if it is not yours. If that many keys were stolen, change the root secret."
            )
        await reader.run(("APPEND", key, lines))


async def _revocations(configured: Settings, coordinator_id: str) -> list[Revocation]:
    from core.redis_backend.keys import CoordinatorKeys
    from core.revocation import MAX_BYTES, revocations_in

    async with looking(configured) as reader:
        [stored] = await reader.run(("GETRANGE", CoordinatorKeys(coordinator_id).revoked, 0, MAX_BYTES - 1))
    return list(revocations_in(stored))


def _proof(configured: Settings, coordinator_id: str, revocation: Revocation) -> str:
    from core.roles import Address, Role
    from core.wiring import keys_for

    parents = (Address.of(Role.COORDINATOR, coordinator_id), *revocation.chain[:-1])
    good = keys_for(parents, configured.a2a, configured.redis).revoke(
        revocation.chain[-1], revocation.key_id, revocation.proof
    )
    return "good" if good else "not by the secret that is set here"
