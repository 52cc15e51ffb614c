"""What the graphs of a project need around them: folders on the path, packages, variables of the environment."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from dotenv import dotenv_values
from packaging.requirements import InvalidRequirement, Requirement

from core.errors import ConfigError
from worker.projects.langgraph_json import Project

__all__ = ["install_command", "local_folders", "prepare"]


def prepare(project: Project) -> None:
    """Makes the folders of a project importable, checks its packages, and sets its variables where the environment has
    none of that name. Doing so again changes nothing.

    Raises ConfigError with the cure."""
    for folder in search_path(project):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    if missing := list(_missing(project)):
        raise ConfigError(
            f"{project.file} needs packages that are not installed here: {'; '.join(missing)}."
            f" Install them: {_pip(shlex.quote(name.partition(' (')[0]) for name in missing)}"
        )
    for name, value in _variables(project).items():
        os.environ.setdefault(name, value)


def local_folders(project: Project) -> list[Path]:
    """The dependencies of a project that are folders. Raises ConfigError: one does not exist."""
    folders = [(project.folder / name).resolve() for name in project.dependencies if name.startswith((".", "/"))]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{project.file} depends on the folder {folder}, which does not exist")
    return folders


def search_path(project: Project) -> list[Path]:
    """Where the modules of a project lie: its folders, and `src` below them, as they would be once installed."""
    return [place for folder in local_folders(project) for place in (folder, folder / "src") if place.is_dir()]


def install_command(project: Project, module: str) -> str:
    """How to install what a project's own modules import, and is not there."""
    for folder in local_folders(project):
        if (folder / "pyproject.toml").is_file() or (folder / "setup.py").is_file():
            return _pip(["-e", shlex.quote(str(folder))])
        if (folder / "requirements.txt").is_file():
            return _pip(["-r", shlex.quote(str(folder / "requirements.txt"))])
    return _pip([module.partition(".")[0].replace("_", "-")])


def _pip(what: Iterator[str] | list[str]) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(what)}"


def _missing(project: Project) -> Iterator[str]:
    """The packages that are not there, as pip has them, each with the version that is there instead."""
    for text in project.dependencies:
        if text.startswith((".", "/")):
            continue
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            if "://" not in text:  # the address of an archive does not say which package it is
                raise ConfigError(f"{project.file}: dependency {text!r} is neither a folder nor a package") from None
            continue
        if needed.marker is not None and not needed.marker.evaluate():
            continue
        try:
            installed = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield text
        else:
            if not needed.specifier.contains(installed, prereleases=True):
                yield f"{text} (here is {installed})"


def _variables(project: Project) -> Mapping[str, str]:
    if not isinstance(project.env, Path):
        return project.env
    if not project.env.is_file():
        raise ConfigError(
            f"{project.file} names the file {project.env} for its environment, and there is none. Make it, such as from"
            ' an .env.example, or take "env" out of the file.'
        )
    return {name: value for name, value in dotenv_values(project.env).items() if value is not None}
