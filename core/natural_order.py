"""Names with numbers in them, in the order in which people count."""

from __future__ import annotations

import re

__all__ = ["natural_key"]


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """What to sort `name` by, so that worker-2 comes before worker-10. Two names are equal only if their keys are."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], name
