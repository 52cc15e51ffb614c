"""The samples of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

from core.event_types import event_types_table

__all__ = ["FLEET", "sample_of", "section_of_endpoints", "table_of_event_types"]

ROOT = Path(__file__).parents[1]
FLEET = ROOT / "docs/fleet.md"
#: What stands before and behind the table of endpoints.
ENDPOINTS = re.compile(r"(?<=\n\n)\| request \| what it does \| for \|\n.*?\n(?=\n)", re.DOTALL)
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


def section_of_endpoints() -> str:
    """The table of endpoints, as docs/fleet.md shows it."""
    from core.gateway.access import CallerRole
    from core.gateway.app import gateway_app
    from core.gateway.hierarchy import Hierarchy
    from core.gateway.rbac import ROLES_OF, Action, action_of

    paths = gateway_app(Hierarchy(None, None, "coordinator-1", "gateway")).openapi()["paths"]
    rows = ["| request | what it does | for |\n|---|---|---|\n"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            action = action_of(method.upper(), path)
            roles = ", ".join(role for role in CallerRole if role in ROLES_OF[action])
            who = "everybody" if action is Action.KNOCK else roles
            does = re.split(r"\. |;", " ".join(operation.get("description", "").split()))[0].rstrip(".")
            rows.append(f"| `{method.upper()} {path}` | {does} | {who} |\n")
    rows.append("| `GET /events/ws` | The same as `/events/stream`, over a WebSocket | viewer, operator, admin |\n")
    return "".join(rows)


if __name__ == "__main__":  # python -m tests.pages: writes it there
    page = ROOT / "docs/events.md"
    before = page.read_text().partition(TABLE_HEAD)[0]
    page.write_text(before + table_of_event_types())
    FLEET.write_text(ENDPOINTS.sub(lambda _: section_of_endpoints(), FLEET.read_text()))
