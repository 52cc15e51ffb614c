"""The samples of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["sample_of"]

LIBRARY = Path(__file__).parents[1] / "docs" / "library.md"


def sample_of(heading: str) -> str:
    """The Python sample below that heading of docs/library.md."""
    section = LIBRARY.read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]
