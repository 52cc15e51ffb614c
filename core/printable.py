"""Text of others as it may be shown: no character of it can move a cursor, hide a line or begin one."""

from __future__ import annotations

import re

__all__ = ["escaped_json", "printable", "printable_lines"]

_BEYOND_ASCII = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """`text` in one line: what is not printable stands there as it would in a string literal, `\\x1b`."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """`text`, line by line. All but the first are indented, so that none passes for a line of who tells it."""
    return "\n    ".join(map(printable, text.split("\n")))


def escaped_json(encoded: str) -> str:
    """JSON with nothing in its strings that is not printable; it means the same."""
    return _BEYOND_ASCII.sub(_as_json, encoded)


def _as_json(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
