"""Shows the progress of a job: a table that changes in place on a terminal, and plain lines otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Generic, Self, TypeVar

from core.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

__all__ = ["AgentRow", "LiveView", "Snapshot", "View", "wants_decoration"]

Shown = TypeVar("Shown")

#: Seconds between two updates, which is as often as anybody can read them.
TABLE_INTERVAL_S = 0.25
LINE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent at one moment."""

    agent_id: str
    role: str
    state: str  #: active, suspect, gone, ...
    in_flight: int
    done: int
    failed: int
    rate: float  #: tasks a second


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The hierarchy at one moment."""

    agents: Sequence[AgentRow]
    done: int
    total: int  #: tasks known so far, which may grow
    failed: int = 0
    retried: int = 0


def wants_decoration(stream: IO[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` is a terminal, and plain text was not requested (NO_COLOR, CI)."""
    return stream.isatty() and not environment.get("NO_COLOR") and not environment.get("CI")


class View(Generic[Shown]):
    """Shows snapshots on `stream`, but not too often. The last one is always shown at the end.

    Use it as a context manager: it restores the terminal afterwards in any case.
    """

    def line(self, snapshot: Shown) -> str:
        """The snapshot as text, for a stream that is no terminal."""
        raise NotImplementedError

    def picture(self, snapshot: Shown) -> RenderableType:
        """The snapshot on a terminal."""
        raise NotImplementedError

    def __init__(self, stream: IO[str], decorated: bool) -> None:
        self._stream = stream
        self._decorated = decorated
        self._live: Live | None = None
        self._latest: Shown | None = None
        self._shown: Shown | None = None
        self._shown_at_s = -LINE_INTERVAL_S
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._decorated:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None and self._latest != self._shown:
            self._draw(self._latest)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, snapshot: Shown, now_s: float | None = None) -> None:
        """Shows a snapshot, unless the last update is too recent. `now_s`: monotonic time."""
        now_s = time.monotonic() if now_s is None else now_s
        self._latest = snapshot
        interval_s = TABLE_INTERVAL_S if self._live is not None else LINE_INTERVAL_S
        drawn, plain = self._shown, self._live is None
        news = drawn is None or (self.line(snapshot) != self.line(drawn) if plain else snapshot != drawn)
        if news and now_s - self._shown_at_s >= interval_s:
            self._shown_at_s = now_s
            self._draw(snapshot)

    def say(self, words: str) -> None:
        """Prints a message, which stays above the table. Further lines are indented."""
        if self._live is not None:
            self._live.console.print(printable_lines(words), markup=False, highlight=False)
        else:
            print(printable_lines(words), file=self._stream, flush=True)

    def _draw(self, snapshot: Shown) -> None:
        self._shown = snapshot
        if self._live is None:
            line = f"{time.monotonic() - self._started_s:5.1f} s  {printable(self.line(snapshot))}"
            print(line, file=self._stream, flush=True)
        else:
            self._live.update(self.picture(snapshot), refresh=True)


class LiveView(View[Snapshot]):
    """The live view of the census."""

    def line(self, snapshot: Snapshot) -> str:
        return _line(snapshot)

    def picture(self, snapshot: Snapshot) -> RenderableType:
        return _table(snapshot)


def _line(snapshot: Snapshot) -> str:
    """A snapshot in one line: the total, and the tasks that each worker has done."""
    parts = [f"{snapshot.done}/{snapshot.total} tasks", f"{snapshot.failed} failed"]
    parts += [f"{snapshot.retried} retried"] if snapshot.retried else []
    parts += [
        f"{row.agent_id} {row.done} done" + (f" ({row.state})" if row.state != "active" else "")
        for row in snapshot.agents
        if row.role == "worker" or row.state != "active"
    ]
    return ", ".join(parts)


def _table(snapshot: Snapshot) -> Table:
    from rich.table import Table
    from rich.text import Text

    caption = f"{snapshot.done} of {snapshot.total} tasks, {snapshot.failed} failed, {snapshot.retried} retried"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("agent", no_wrap=True)
    table.add_column("state")
    for name in ("in flight", "done", "failed", "rate/s"):
        table.add_column(name, justify="right", min_width=6)
    indents = {"coordinator": "", "distributor": "  ", "worker": "    "}
    colours = {"active": "green", "draining": "yellow", "suspect": "yellow", "restarted": "yellow"}
    for row in snapshot.agents:
        table.add_row(
            Text(indents.get(row.role, "") + printable(row.agent_id)),
            Text(printable(row.state), style=colours.get(row.state, "red")),
            str(row.in_flight),
            str(row.done),
            Text(str(row.failed), style="red" if row.failed else ""),
            f"{row.rate:.1f}",
        )
    return table
