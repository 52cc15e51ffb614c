"""Makes text of others safe to show: no character of it can move a cursor, hide a line or begin one."""

from __future__ import annotations

import re

__all__ = ["escaped_json", "printable", "printable_lines"]

_BEYOND_ASCII = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """`text` in one line, with unprintable characters as in a string literal, `\\x1b`."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """`text`, line by line. All lines but the first are indented, so that none can pass for a line of ours."""
    return "\n    ".join(map(printable, text.split("\n")))


def escaped_json(encoded: str) -> str:
    """JSON of the same meaning, whose strings contain only printable characters."""
    return _BEYOND_ASCII.sub(_as_json, encoded)


def _as_json(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
