"""The live view of a run: the faults, and how the hierarchy reacts to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.pictures.live import View

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["AgentLine", "ChaosView", "Snapshot", "sparkline"]

#: Number of unhealthy processes that a line names.
ILL, NAMED = frozenset({"stopped", "ending", "down", "cut", "delay", "black-hole"}), 3
_BARS = " ▁▂▃▄▅▆▇█"
_STYLES = {
    "acts": "green",
    "waits": "cyan",
    "starts": "yellow",
    "stopped": "yellow",
    "ending": "yellow",
    "down": "red",
    "cut": "red",
    "delay": "magenta",
    "black-hole": "red",
}


@dataclass(frozen=True, slots=True)
class AgentLine:
    """One agent id: its processes, in words, and its lease."""

    agent_id: str
    processes: tuple[tuple[str, str], ...]  #: (name, state): acts, waits, stopped, down, cut, ...
    epoch: int  #: the fence of its lease; 0: none is known yet
    takeovers: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run at one moment."""

    phase: str  #: starting | calm | faults | draining
    elapsed_s: int
    total_s: int
    server: str  #: up | stopped | down
    agents: tuple[AgentLine, ...]
    last_faults: tuple[str, ...]  #: the latest ones, the newest last
    faults: int
    open: int
    done: int
    rates: tuple[float, ...]  #: the number of tasks that ended in each of the last seconds
    calm: float  #: tasks a second without faults; 0: unknown yet


class ChaosView(View[Snapshot]):
    """What `agents chaos` shows during a run."""

    def line(self, snapshot: Snapshot) -> str:
        rate = snapshot.rates[-1] if snapshot.rates else 0.0
        ill = [f"{name} {what}" for agent in snapshot.agents for name, what in agent.processes if what in ILL]
        parts = [
            f"{snapshot.phase:8}  {snapshot.open} open, {snapshot.done} done, {rate:.0f}/s",
            f"{snapshot.faults} faults, {sum(agent.takeovers for agent in snapshot.agents)} takeovers",
            *([f"server {snapshot.server}"] if snapshot.server != "up" else []),
            *ill[:NAMED],
            *([f"{len(ill) - NAMED} more"] if len(ill) > NAMED else []),
        ]
        return ", ".join(parts)

    def picture(self, snapshot: Snapshot) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("agent", "fence", "takeovers", "processes"):
            table.add_column(name, justify="right" if name in ("fence", "takeovers") else "left", no_wrap=True)
        for agent in snapshot.agents:
            processes = Text()
            for name, what in agent.processes:
                processes.append(f"{name} ").append(f"{what}  ", style=_STYLES.get(what, ""))
            table.add_row(Text(agent.agent_id), str(agent.epoch or "-"), str(agent.takeovers), processes)
        server = Text("server", style="bold").append(f" {snapshot.server}", style=_STYLES.get(snapshot.server, "green"))
        head = Text(f"{snapshot.phase}", style="bold").append(
            f"  {snapshot.elapsed_s} of {snapshot.total_s} s   {snapshot.open} open, {snapshot.done} done,"
            f" {snapshot.faults} faults   ",
            style="not bold",
        )
        rate = snapshot.rates[-1] if snapshot.rates else 0.0
        calm = f" (calm {snapshot.calm:.0f})" if snapshot.calm else ""
        curve = Text(sparkline(snapshot.rates), style="blue").append(f" {rate:.0f}/s{calm}", style="default")
        faults = Text("\n".join(snapshot.last_faults) or "no faults yet", style="dim")
        return Group(head.append(server), curve, table, faults)


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, one character each, relative to the largest."""
    peak = max(values, default=0.0)
    if peak <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[round(value / peak * (len(_BARS) - 1))] for value in values)
