"""The terminal of `agents top`: its keys, its signals, and what is drawn again and again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from core.cli.event_text import BAD, ODD, WORDS, event_line
from core.cli.session import feeding, looking
from core.config.settings import Settings
from core.errors import AgentSystemError
from core.event_types import EventType
from core.fleet_moment import EventLine, Order
from core.operations.event_feed import Position, Wanted
from core.operations.fleet_watch import FleetWatch
from core.pictures.fleet import Shown, fleet_picture

__all__ = ["live"]

#: Events that are remembered, and seconds before the start whose events are told.
EVENTS_KEPT, EVENTS_SINCE_S = 200, 60
_ORDERS = {"t": Order.TREE, "r": Order.RATE, "l": Order.LOAD, "f": Order.FAILED, "s": Order.SILENT}
#: What a terminal sends for the arrows, and for whole pages.
_SCROLL = {"\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1, "\x1b[5~": -10, "\x1b[6~": 10}


class _Screen:
    """What the keys have chosen, and what is to be drawn."""

    def __init__(self) -> None:
        self.shown = Shown()
        self.ended = False
        self.changed = asyncio.Event()  #: set by a key, a signal, or a terminal of another size

    def end(self) -> None:
        self.ended = True
        self.changed.set()

    def bound(self, agents: int) -> None:
        """Notes how many agents there are to scroll through."""
        self.shown = replace(self.shown, first=min(self.shown.first, max(0, agents - 1)))

    def press(self, keys: str) -> None:
        """Takes what was typed: one key, or the sequence of one."""
        shown = self.shown
        if keys in ("q", "Q", "\x03", "\x04"):
            self.end()
        elif keys in _ORDERS:
            self.shown = replace(shown, order=_ORDERS[keys], first=0)
        elif keys in _SCROLL:
            self.shown = replace(shown, first=max(0, shown.first + _SCROLL[keys]))
        elif keys == " ":
            self.shown = replace(shown, paused=not shown.paused)
        self.changed.set()


async def live(configured: Settings, interval_s: float) -> None:
    """Until q or Ctrl-C. While Redis is away it shows what it has read last, and says so. Raises TransportDown if that
    is nothing."""
    screen, events, console = _Screen(), deque[EventLine](maxlen=EVENTS_KEPT), Console()
    async with looking(configured) as reader, _hearing(configured, events):
        watch = FleetWatch(reader, configured.coordinator_id, configured.agent)
        order = screen.shown.order
        moment = await watch.look(order)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + interval_s
        with (
            _keys(screen.press),
            _signals(screen),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while not screen.ended:
                told = replace(moment, events=tuple(events))
                live.update(fleet_picture(told, screen.shown, *console.size), refresh=True)
                screen.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(None if screen.shown.paused else due_s):
                        await screen.changed.wait()
                is_due = loop.time() >= due_s and not screen.shown.paused
                if is_due or screen.shown.order is not order:
                    order, due_s = screen.shown.order, loop.time() + interval_s
                    try:
                        moment = await watch.look(order)
                    except AgentSystemError as error:
                        moment = replace(moment, problem=f"{error}".partition(". ")[0])
                    screen.bound(len(moment.agents))


@contextlib.asynccontextmanager
async def _hearing(configured: Settings, events: deque[EventLine]) -> AsyncIterator[None]:
    """Has `events` filled with what happens besides the usual course of tasks, and has happened shortly before."""
    unusual = {kind for kind, (_, colour) in WORDS.items() if colour in (BAD, ODD) or "agent_" in kind}
    unusual.discard(EventType.TASK_RETRYING)  # the attempt before it was told

    async def hear() -> None:
        begin = Position.since(int((time.time() - EVENTS_SINCE_S) * 1000))
        with contextlib.suppress(AgentSystemError):  # this user may not read them, say: there are none to be seen then
            async with feeding(configured, tell=lambda words: None) as feed:
                async for event in feed.events(begin, Wanted(frozenset(unusual)), live=True):
                    events.append(EventLine(*event_line(event)))

    hearing = asyncio.create_task(hear())
    try:
        yield
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


@contextlib.contextmanager
def _keys(press: Callable[[str], None]) -> Iterator[None]:
    """Has each key reach `press` at once, unseen; restores the terminal."""
    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def read() -> None:
        typed = os.read(keyboard, 64).decode(errors="replace")
        if not typed:  # its terminal is gone
            press("q")
        for keys in [typed] if typed.startswith("\x1b") else typed:
            press(keys)

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, read)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(screen: _Screen) -> Iterator[None]:
    """Ctrl-C and its like end it as q does; another size of the terminal has it drawn again."""
    loop = asyncio.get_running_loop()
    on = {signal.SIGINT: screen.end, signal.SIGTERM: screen.end, signal.SIGWINCH: screen.changed.set}
    for number, act in on.items():
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in on:
            loop.remove_signal_handler(number)
