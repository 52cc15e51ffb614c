"""Draws the message traffic of a hierarchy: the tiers as rows of boxes, with the messages on the edges between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.pictures.svg import FAINT, INK, LOST, MUTED, element, elided, hint, label, page, width_px

__all__ = ["AgentBox", "Traffic", "hierarchy_svg"]


@dataclass(frozen=True, slots=True)
class AgentBox:
    """One agent of the hierarchy, or the client above the coordinator."""

    agent_id: str
    role: str  #: client, coordinator, distributor or worker; it is shown, and determines the colour
    parent: str | None  #: id of the agent above it; None at the top
    counts: Mapping[str, int | str] = field(default_factory=dict)  #: numbers in the order to show, such as done, failed
    remark: str = ""  #: shown in red, such as "killed"


@dataclass(frozen=True, slots=True)
class Traffic:
    """The number of messages from one agent to the one above or below it."""

    sender: str
    recipient: str
    action: str
    messages: int


BOX, SPACE, MARGIN = 168, 20, 24
LINE = 17
TITLE_HEIGHT = 84
COLOURS = {"client": "#6e7781", "coordinator": "#8a63b0", "distributor": "#2f8f74", "worker": "#3b76b5"}


@dataclass(slots=True)
class _Placed:
    box: AgentBox
    children: list[_Placed]
    x: float = 0.0  #: of its centre
    y: float = 0.0  #: of its upper edge

    @property
    def height(self) -> float:
        return 50.0 + LINE * (len(self.box.counts) + bool(self.box.remark)) + (6 if self.box.counts else 0)


def hierarchy_svg(boxes: Sequence[AgentBox], traffic: Sequence[Traffic], title: str = "Who sent whom how much") -> str:
    """The picture as self-contained SVG text.

    An agent whose parent is not in `boxes` is at the top. Traffic between agents that are not parent and child is left
    out, since there is no edge for it.
    """
    placed = {box.agent_id: _Placed(box, []) for box in boxes}
    tops = [agent for agent in placed.values() if agent.box.parent not in placed]
    for agent in placed.values():
        if agent.box.parent in placed:
            placed[agent.box.parent].children.append(agent)
    words = {agent_id: _edge_words(agent.box, traffic) for agent_id, agent in placed.items()}
    x = float(MARGIN)
    for top in tops:
        x = _place_x(top, x, words) + SPACE
    height = _place_rows(tops, words)
    said = f"{sum(link.messages for link in traffic):,} messages between {len(boxes)} agents; ▼ down, ▲ up"
    heading = [
        label(MARGIN, 36, title, font_size=18, font_weight=600),
        label(MARGIN, 57, said, font_size=13, fill=MUTED),
    ]
    edges = [part for agent in placed.values() for part in _edges(agent, words)]
    drawn = [part for agent in placed.values() for part in _box(agent)]
    width = max(x - SPACE + MARGIN, MARGIN * 2 + width_px(said, 13))
    return page(width, height + MARGIN, title, [*heading, *edges, *drawn])


def _edge_words(box: AgentBox, traffic: Sequence[Traffic]) -> list[str]:
    """The labels for the traffic between an agent and its parent: a line for each action and direction."""
    down = [link for link in traffic if (link.sender, link.recipient) == (box.parent, box.agent_id)]
    up = [link for link in traffic if (link.sender, link.recipient) == (box.agent_id, box.parent)]
    return [f"{arrow} {link.action} {link.messages:,}" for arrow, part in (("▼", down), ("▲", up)) for link in part]


def _place_x(agent: _Placed, left: float, words: Mapping[str, Sequence[str]]) -> float:
    """Places an agent above the middle of its children, all to the right of `left`. Returns their right end."""
    own = max((width_px(line, 11) + 14 for line in words[agent.box.agent_id]), default=0.0)
    own = min(max(BOX, own), 2 * BOX)
    right = left - SPACE
    for child in agent.children:
        right = _place_x(child, right + SPACE, words)
    missing = max(0.0, own - (right - left))
    if agent.children:
        for child in agent.children:
            _shift(child, missing / 2)
        agent.x = (agent.children[0].x + agent.children[-1].x) / 2
    else:
        missing, agent.x = own, left + own / 2
        right = left
    return right + missing


def _shift(agent: _Placed, by: float) -> None:
    agent.x += by
    for child in agent.children:
        _shift(child, by)


def _place_rows(tops: Sequence[_Placed], words: Mapping[str, Sequence[str]]) -> float:
    """Places the tiers below each other, with room for the labels in between. Returns the lower end."""
    y, row, bottom = float(TITLE_HEIGHT), list(tops), float(TITLE_HEIGHT)
    while row:
        for agent in row:
            agent.y = y
        bottom = y + max(agent.height for agent in row)
        row = [child for agent in row for child in agent.children]
        y = bottom + 44 + LINE * max((len(words[child.box.agent_id]) for child in row), default=0)
    return bottom


def _edges(parent: _Placed, words: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines from an agent to its children, with their labels."""
    if not parent.children:
        return []
    start = parent.y + parent.height
    turn = start + 18
    parts = [_line(parent.x, start, parent.x, turn)]
    parts.append(_line(parent.children[0].x, turn, parent.children[-1].x, turn))
    for child in parent.children:
        parts.append(_line(child.x, turn, child.x, child.y))
        lines = words[child.box.agent_id]
        height = LINE * len(lines)
        first = turn + (child.y - turn - height) / 2
        for row, line in enumerate(lines):
            shown = elided(line, 2 * BOX - 14, 11)
            ground = width_px(shown, 11)
            y = first + LINE * row
            parts.append(element("rect", x=child.x - ground / 2, y=y, width=ground, height=LINE, fill="#ffffff"))
            told = label(child.x, y + 13, shown, font_size=11, text_anchor="middle", fill=INK)
            parts.append(element("g", hint(line) + told))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke="#8c959f", stroke_width=1.5)


def _box(agent: _Placed) -> list[str]:
    box, left = agent.box, agent.x - BOX / 2
    colour = COLOURS.get(box.role, MUTED)
    border = LOST if box.remark else FAINT
    name = label(left + 12, agent.y + 40, elided(box.agent_id, BOX - 24, 13), font_size=13, font_weight=600)
    parts = [
        element("rect", x=left, y=agent.y, width=BOX, height=agent.height, rx=6, fill="#ffffff", stroke=border),
        element("rect", x=left, y=agent.y, width=BOX, height=5, rx=2.5, fill=colour),
        label(left + 12, agent.y + 23, box.role, font_size=11, fill=colour, font_weight=600),
        element("g", hint(box.agent_id) + name),
    ]
    y = agent.y + 62.0
    for name, count in box.counts.items():
        shown = f"{count:,}" if isinstance(count, int) else count
        parts.append(label(left + 12, y, elided(name, BOX - 40 - width_px(shown)), fill=MUTED))
        parts.append(label(left + BOX - 12, y, shown, text_anchor="end"))
        y += LINE
    if box.remark:
        parts.append(label(left + 12, y, elided(box.remark, BOX - 24), fill=LOST, font_weight=600))
    return parts
