"""Draws who told whom what, in order: a line down for each, and an arrow for each message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.pictures.svg import FAINT, INK, LOST, MUTED, element, elided, hint, label, page

__all__ = ["Event", "sequence_svg"]

LEFT, COLUMN, ROW, TOP = 90, 190, 22, 96
HEADS = (
    f'<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker>'
)


class Event(NamedTuple):
    """One line of the picture."""

    at_s: float
    who: str  #: empty: everybody
    to: str  #: empty: it is no message
    what: str
    fault: bool


def sequence_svg(actors: Sequence[str], events: Sequence[Event], title: str) -> str:
    """The picture, as self-contained SVG text."""
    places = {actor: LEFT + COLUMN / 2 + COLUMN * number for number, actor in enumerate(actors)}
    width, height = LEFT + COLUMN * len(actors) + 24, TOP + ROW * (len(events) + 1)
    parts = [label(24, 32, title, font_size=18, font_weight=600)]
    for actor, x in places.items():
        name = label(x, TOP - 24, elided(actor, COLUMN - 8), text_anchor="middle", font_weight=600)
        parts.append(element("g", hint(actor) + name))
        parts.append(element("line", x1=x, y1=TOP - 16, x2=x, y2=height - 12, stroke=FAINT))
    for number, event in enumerate(events):
        parts.append(_line(event, places, TOP + ROW * (number + 0.5)))
    return page(width, height, title, parts, HEADS)


def _line(event: Event, places: dict[str, float], y: float) -> str:
    time = label(24, y + 4, f"{event.at_s:.3f} s", fill=MUTED, font_size=11)
    ink = LOST if event.fault else INK
    here = places.get(event.who)
    there = places.get(event.to)
    if here is None or there is None or here == there:
        x = here if here is not None else LEFT
        mark = element("circle", cx=x, cy=y, r=3, fill=ink) if here is not None else ""
        words = label(x + 8, y + 4, elided(event.what, 2 * COLUMN, 11), fill=ink, font_size=11)
        return element("g", hint(event.what) + time + mark + words)
    arrow = element("line", x1=here, y1=y, x2=there, y2=y, stroke=ink, marker_end="url(#head)")
    room = max(abs(there - here), COLUMN) - 12
    words = label((here + there) / 2, y - 3, elided(event.what, room, 10), fill=ink, font_size=10, text_anchor="middle")
    return element("g", hint(event.what) + time + arrow + words)
