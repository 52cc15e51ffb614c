"""The samples of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

from core.event_types import event_types_table

__all__ = ["sample_of", "table_of_event_types"]

ROOT = Path(__file__).parents[1]
TABLE_HEAD = "| type | level | meaning | `data` |\n|---|---|---|---|\n"


def sample_of(page: str, heading: str) -> str:
    """The first Python sample below that heading of a page, such as `docs/library.md`."""
    section = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def table_of_event_types() -> str:
    """As docs/events.md shows it."""
    rows = (f"| `{kind}` | {level} | {meaning} | {fields} |\n" for kind, level, meaning, fields in event_types_table())
    return "".join((TABLE_HEAD, *rows))


if __name__ == "__main__":  # python -m tests.pages: writes it there
    page = ROOT / "docs/events.md"
    before = page.read_text().partition(TABLE_HEAD)[0]
    page.write_text(before + table_of_event_types())
