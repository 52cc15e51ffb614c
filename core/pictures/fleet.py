"""The picture of a hierarchy on a whole terminal: figures, agents, and what goes on, as far as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.agents import Health
from core.fleet_moment import FleetMoment, Order
from core.printable import printable
from core.told_time import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.layout import Layout
    from rich.table import Table
    from rich.text import Text

__all__ = ["Shown", "agents_text", "fleet_picture", "slots_text"]

#: Below this width what goes on stands below the other, and not beside it.
SIDE_BY_SIDE = 110
#: The share of the lines that agents may have, if they need it.
AGENTS_SHARE = 0.5
BARS = "▁▂▃▄▅▆▇█"
COLOURS = {"active": "green", "draining": "yellow", "suspect": "yellow", "unheard": "yellow", "gone": "red"}
HELP = "q quit · sort: t tree  r rate  l load  f failed  s silent · ↑ ↓ scroll · space pause"


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a moment is shown."""

    order: Order = Order.TREE
    first: int = 0  #: the first agent that is shown
    paused: bool = False


def slots_text(tasks: int, agents: int) -> str:
    """`4`, or `4+100`: for tasks, and for runs of agents."""
    return f"{tasks}+{agents}" if agents else f"{tasks}"


def agents_text(moment: FleetMoment) -> str:
    """`4 agents`, or `200 of 10001 agents (3 suspect)`, where not all of them are among the lines."""
    there = sum(tier.agents for tier in moment.tiers.values())
    if moment.has_all_agents:
        return f"{there} agents"
    counts = ((health, sum(tier.by_health.get(health, 0) for tier in moment.tiers.values())) for health in Health)
    others = ", ".join(f"{number} {health}" for health, number in counts if number and health is not Health.ACTIVE)
    return f"{len(moment.agents)} of {there} agents" + (f" ({others})" if others else "")


def order_text(moment: FleetMoment, order: Order) -> str:
    """By what the lines are sorted, in a word."""
    return "trouble" if order is Order.TREE and not moment.has_all_agents else order.value


def fleet_picture(moment: FleetMoment, shown: Shown, width: int, height: int) -> RenderableType:
    """The picture, of exactly so many columns and lines."""
    from rich.layout import Layout

    whole = Layout()
    head, foot = 3, 1
    body = max(2, height - head - foot)
    wanted = len(moment.agents) + 2
    for_agents = min(wanted, max(3, int(body * AGENTS_SHARE)))
    whole.split_column(
        Layout(_head(moment, shown, width), size=head),
        Layout(_agents(moment, shown, for_agents - 2), size=for_agents),
        _goings_on(moment, width, body - for_agents),
        Layout(_line(f" {HELP}", "dim"), size=foot),
    )
    return whole


def _head(moment: FleetMoment, shown: Shown, width: int) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f" {printable(moment.coordinator_id)}", "bold")
    text.append(f"  {moment.at:%H:%M:%S} UTC", "dim")
    if shown.paused:
        text.append("  paused", "bold yellow")
    if moment.problem:
        text.append(f"  {printable(moment.problem)}", "bold red")
    figures = [(f"{moment.rate:.1f} tasks/s", ""), (_bars(moment.rates, min(30, width // 4)), "cyan")]
    text.append("\n ")
    for words, style in figures:
        text.append(f"{words}  ", style)
    text.append(
        f"{moment.running} running on {slots_text(moment.slots, moment.agent_slots)} slots  {moment.open_tasks} open  "
    )
    if moment.oldest_waiting_s is not None:
        style = "yellow" if moment.oldest_waiting_s > 60 else ""
        text.append(f"oldest waits {duration(moment.oldest_waiting_s)}  ", style)
    text.append(f"{moment.asking} asking  ", "yellow" if moment.asking else "")
    text.append(f"{moment.dead_letters} dead", "red" if moment.dead_letters else "")
    text.append("\n ")
    reasons = ", ".join(f"{number} {printable(why)}" for why, number in moment.waiting.items())
    text.append(f"waiting: {reasons}" if reasons else "", "dim")
    return text


def _bars(rates: Sequence[float], width: int) -> str:
    latest = list(rates)[-width:]
    top = max(latest, default=0.0) or 1.0
    return "".join(BARS[round(rate / top * (len(BARS) - 1))] for rate in latest)


def _agents(moment: FleetMoment, shown: Shown, rows: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    table = _table("AGENT", "HEALTH", "IN FLIGHT>", "SLOTS>", "RATE/S>", "DONE>", "FAILED>", "UNREAD>", "HEARD>")
    agents, rows = moment.agents, max(1, rows)
    first = max(0, min(shown.first, len(agents) - rows))
    by_tree = shown.order is Order.TREE and moment.has_all_agents
    for line in agents[first : first + rows]:
        indent = "  " * line.depth if by_tree else ""
        table.add_row(
            Text(indent + printable(line.agent_id), no_wrap=True, overflow="ellipsis"),
            Text(line.health, style=COLOURS.get(line.health, "")),
            f"{line.in_flight}" if line.role != "coordinator" else "",
            slots_text(line.slots, line.agent_slots) if line.role == "worker" else "",
            f"{line.rate:.1f}" if line.role != "coordinator" else "",
            f"{line.done}" if line.role != "coordinator" else "",
            Text(f"{line.failed}" if line.role != "coordinator" else "", style="red" if line.failed else ""),
            Text(f"{line.unread}", style="yellow" if line.unread > 100 else "dim"),
            "" if line.silent_s is None else duration(line.silent_s),
        )
    beyond = len(agents) - first - rows
    more = f" {agents_text(moment)}, by {order_text(moment, shown.order)}"
    more += f", {beyond} more below" if beyond > 0 else ""
    return Group(table, _line(more, "dim"))


def _goings_on(moment: FleetMoment, width: int, rows: int) -> Layout:
    """What runs longest, who asks, and what has happened."""
    from rich.layout import Layout
    from rich.padding import Padding

    running = _table("RUNS FOR>", "TASK", "TYPE", "WORKER", "ATTEMPT>")
    for line in moment.slowest[: max(1, rows)]:
        running.add_row(
            duration(line.runs_s), printable(line.task_id), printable(line.task_type), printable(line.worker),
            f"{line.attempt}",
        )  # fmt: skip
    asking = _table("ASKS FOR>", "TASK", "QUESTION")
    for asked in moment.questions[: max(1, rows)]:
        asking.add_row(duration(asked.waits_s), printable(asked.task_id), printable(asked.asks))
    events = _events(moment, rows)
    parts = [part for part, has in ((running, moment.slowest), (asking, moment.questions)) if has]
    if not parts:
        return Layout(events)
    left = Layout()
    left.split_column(*(Layout(part) for part in parts))
    body = Layout()
    if width >= SIDE_BY_SIDE:
        body.split_row(left, Layout(Padding(events, (0, 0, 0, 2))))
    else:
        body.split_column(left, Layout(events))
    return body


def _events(moment: FleetMoment, rows: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    newest = list(moment.events)[-max(1, rows - 1) :][::-1]
    lines = [Text(line.text, style=line.colour or "", no_wrap=True, overflow="ellipsis") for line in newest]
    return Group(_line("WHAT IS NOT AS USUAL (UTC)", "bold"), *(lines or [_line("none yet", "dim")]))


def _table(*columns: str) -> Table:
    """Without borders; a `>` behind a name aligns to the right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for name in columns:
        title = name.rstrip(">")
        table.add_column(
            title,
            justify="right" if name.endswith(">") else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=len(title),
        )
    return table


def _line(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
