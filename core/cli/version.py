"""`agents version`"""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from core.cli.render import print_json

__all__ = ["installed_version", "version", "with_version"]


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


def installed_version() -> str:
    """The version of the installed package, or of the checkout that contains this file."""
    import tomllib
    from importlib import metadata
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version("agent-system")
