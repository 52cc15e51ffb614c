"""`agents config`: the settings, and the source of each value."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from core.cli.render import print_json, print_table
from core.cli.session import settings

__all__ = ["app"]

app = typer.Typer(help="Show the settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `show` a subcommand, although it is the only one."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every setting with its value and its source. Secrets are masked."""
    sources = settings().sources
    if as_json:
        print_json([asdict(setting) for setting in sources])
    else:
        print_table(
            ("SETTING", "VALUE~", "SOURCE"),
            [(setting.name, setting.value_shown, setting.source) for setting in sources],
        )
