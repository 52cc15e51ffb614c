"""Sees to it that a hierarchy is run once at a time on this machine."""

from __future__ import annotations

import time

import typer

from core.cli.render import note
from core.launch.hierarchy import HierarchyFiles
from core.machine.file_lock import try_lock

__all__ = ["take_lock"]

_TRIES, _POLL_S = 5, 0.05


def take_lock(files: HierarchyFiles, coordinator_id: str, redis: str) -> int:
    """Takes the hierarchy's lock. Returns a descriptor that holds it. Raises Exit, and says so: another process of this
    machine runs the hierarchy."""
    for _ in range(_TRIES):  # a process that only checks the lock takes it for a moment
        lock = try_lock(files.lock)
        if lock is not None:
            return lock
        time.sleep(_POLL_S)
    record = files.read()
    note(
        f"agents: {coordinator_id} is up already at {redis}"
        f" (supervisor: process {record.pid if record else '?'}). `agents status` shows it, `agents down` ends it."
    )
    raise typer.Exit(1)
