"""The samples of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["sample_of"]

ROOT = Path(__file__).parents[1]


def sample_of(page: str, heading: str) -> str:
    """The first Python sample below that heading of a page, such as `docs/library.md`."""
    section = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]
