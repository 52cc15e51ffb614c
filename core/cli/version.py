"""`agents version`"""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from core.cli.render import print_json
from core.config.version import installed_version

__all__ = ["version", "with_version"]


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


def with_version(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # The options of `agents` itself. Its help text is that of the application.
    pass


def version(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print the version."""
    ours = installed_version()
    if as_json:
        print_json({"agent-system": ours, "python": platform.python_version()})
    else:
        print(f"agent-system {ours}")
