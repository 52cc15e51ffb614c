"""Prevents a script that is imported for its handlers from starting the whole system again."""

from __future__ import annotations

from core.errors import ConfigError
from core.module_names import module_name

__all__ = ["FORKSERVER_MODULE", "only_imports", "refuse_in_child"]

FORKSERVER_MODULE = module_name("worker.children.forkserver")

_only_imports = False


def only_imports() -> None:
    """Notes that this process, and every fork of it, only imports and runs handlers from now on."""
    global _only_imports
    _only_imports = True


def refuse_in_child(what: str) -> None:
    """Raises ConfigError, with the remedy, in a process that only imports handlers. Call it before starting
    anything."""
    if _only_imports:
        raise ConfigError(
            f"{what} was started while a child process imported the script for its handlers."
            ' Put what starts it below `if __name__ == "__main__":` at the end of the script.'
        )
