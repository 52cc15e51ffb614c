"""Keeps a script that is imported for its handlers from starting the whole system once more."""

from __future__ import annotations

import sys

from core.errors import ConfigError

__all__ = ["refuse_in_child"]

NURSERY_MODULE = "worker.nursery"


def refuse_in_child(what: str) -> None:
    """Raises ConfigError, naming the cure, where this process only imports handlers; call it before starting things."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name == NURSERY_MODULE:
        raise ConfigError(
            f"{what} was started while a child process imported the script for its handlers."
            ' Put what starts it below `if __name__ == "__main__":` at the end of the script.'
        )
