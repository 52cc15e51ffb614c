"""`agents doctor`: finds problems, and says how to fix them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.render import print_json, print_table
from core.cli.session import run

if TYPE_CHECKING:
    from core.operations.finding import Finding

__all__ = ["doctor"]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Find problems, and say how to fix them.

    Looks at Python, packages, settings, secret, server, leases, agents, what keeps tasks waiting, skills that nobody
    has, the registry, versions and rejected messages; changes nothing.
    The exit code is 0 when nothing has failed, and otherwise that of the first failure: 69 no server, or one that
    takes no writes, 77 another secret, 78 a setting or a server that has to be set otherwise, 1 anything else.
    """
    from core.operations.checkup import exit_code_of

    findings = run(_findings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows: list[tuple[str, str, str]] = []
        for finding in findings:
            what, *more = finding.what.split("\n")
            rows.append((finding.check, finding.state, what))
            rows += [("", "", line) for line in more]
            if finding.cure:
                rows.append(("", "", f"Cure: {finding.cure}"))
        print_table(("CHECK", "STATE", "WHAT~"), rows)
    raise typer.Exit(exit_code_of(findings))


async def _findings() -> list[Finding]:
    from core.operations.checkup import check_all

    return [finding async for finding in check_all()]
