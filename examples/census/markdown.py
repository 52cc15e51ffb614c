"""Escapes names and sentences for Markdown, so that any content stays text, in one line and one cell of a table."""

from __future__ import annotations

import re

from core.printable import printable

__all__ = ["code", "prose"]

_BAR = "&#124;"
#: Characters with a meaning in Markdown. An entity has none, whereas a backslash does not escape a bar everywhere.
_AS_ENTITIES = str.maketrans({char: f"&#{ord(char)};" for char in "\\`*_[]<>&|~$"})
_TICKED = re.compile("`([^`]+)`")


def code(name: str) -> str:
    """`name` as code. A bar would end the cell even inside code, so it is put between two pieces of code."""
    return _BAR.join(_span(piece) if piece else "" for piece in printable(name).split("|"))


def prose(words: str) -> str:
    """A sentence, in which text between backticks is code."""
    parts = _TICKED.split(printable(words))
    return "".join(code(part) if at % 2 else part.translate(_AS_ENTITIES) for at, part in enumerate(parts))


def _span(piece: str) -> str:
    """A piece of code between enough backticks: it ends at as many in a row as it begins with."""
    fence = "`" * (1 + max(map(len, re.findall("`+", piece)), default=0))
    pad = " " if "`" in piece else ""
    return f"{fence}{pad}{piece}{pad}{fence}"
