"""The shapes of the pictures, as SVG text. Every text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from core.printable import printable

__all__ = ["FAINT", "INK", "LOST", "MUTED", "element", "elided", "hint", "label", "page", "width_px"]

INK, MUTED, FAINT, LOST = "#1b1f24", "#59636e", "#d8dee4", "#c4261d"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
#: Width of an average letter as a share of the font size, rounded up.
LETTER = 0.6


def page(width: float, height: float, title: str, parts: Iterable[str], definitions: str = "") -> str:
    """A whole picture on a white background, so that it can be read on a page of any colour."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}" role="img" font-family="{FONT}" font-size="12">\n'
        f"<title>{_text(title)}</title>\n<defs>{definitions}</defs>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def element(name: str, content: str = "", /, **attributes: float | str) -> str:
    """One element. `content` is SVG. An underscore in the name of an attribute becomes a dash."""
    given = "".join(f" {key.rstrip('_').replace('_', '-')}={_value(value)}" for key, value in attributes.items())
    return f"<{name}{given}>{content}</{name}>" if content else f"<{name}{given}/>"


def label(x: float, y: float, words: str, **attributes: float | str) -> str:
    """A line of text, with its base line at `y`."""
    return element("text", _text(words), x=x, y=y, **{"fill": INK, **attributes})


def hint(words: str) -> str:
    """The text that a browser shows when the pointer rests on the enclosing element."""
    return element("title", _text(words))


def elided(words: str, room_px: float, size: float = 12) -> str:
    """`words`, or its two ends, short enough for `room_px`; empty if not even three letters fit."""
    words = printable(words)
    fits = int(room_px / (LETTER * size))
    if len(words) <= fits:
        return words
    return f"{words[: fits // 2]}…{words[len(words) - (fits - 1) // 2 :]}" if fits >= 3 else ""


def width_px(words: str, size: float = 12) -> float:
    """An upper estimate of the width of `words`, in pixels."""
    return len(words) * LETTER * size


def _text(words: str) -> str:
    # XML cannot contain some unprintable characters, not even escaped.
    return escape(printable(words))


def _value(value: float | str) -> str:
    if isinstance(value, str):
        return quoteattr(printable(value))
    return f'"{round(value, 2):g}"'
