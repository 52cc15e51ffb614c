"""Names and sentences as Markdown: whatever is in them, they stay text, in one line and in one cell of a table."""

from __future__ import annotations

import re

from core.printable import printable

__all__ = ["code", "prose"]

_BAR = "&#124;"
#: What could begin something. An entity can not; a backslash does not take that from a bar in every dialect.
_AS_ENTITIES = str.maketrans({char: f"&#{ord(char)};" for char in "\\`*_[]<>&|~$"})
_TICKED = re.compile("`([^`]+)`")


def code(name: str) -> str:
    """`name` as code. A bar in it would end the cell even there, so it stands between two pieces of code."""
    return _BAR.join(_span(piece) if piece else "" for piece in printable(name).split("|"))


def prose(words: str) -> str:
    """A sentence, in which code is what stands between backticks."""
    parts = _TICKED.split(printable(words))
    return "".join(code(part) if at % 2 else part.translate(_AS_ENTITIES) for at, part in enumerate(parts))


def _span(piece: str) -> str:
    """Only as many backticks in a row as it begins with end a piece of code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", piece)), default=0))
    pad = " " if "`" in piece else ""
    return f"{fence}{pad}{piece}{pad}{fence}"
