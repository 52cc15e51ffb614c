"""Which version of the package this is."""

from __future__ import annotations

__all__ = ["installed_version"]


def installed_version() -> str:
    """The version of the installed package, or of the checkout that contains this file."""
    import tomllib
    from importlib import metadata
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version("agent-system")
