"""An agent that is recorded: its behaviour, with a file of each of its lives."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from core.config.settings import AgentConfig
from core.config.version import installed_version
from core.langgraph_state import LocalAgentState
from core.recording.life import SHAPE, Beginning, Head, Turn, moment_of
from core.recording.life_file import LIMIT_BYTES, LifeFile, recording_folder
from core.recording.reads import keep_reads, noted_reads
from core.recording.step_lines import failure_line, step_lines
from core.runtime.behaviour import Behaviour, Figures
from core.status_reports import Beat
from core.step import Batch, Effect, Event, Received, Step

if TYPE_CHECKING:
    from core.runtime.agent_loop import AgentLoop

__all__ = ["Recorded", "recorded"]

Effects = TypeVar("Effects", bound=Effect)

#: Settings of a process, without which its graph decides the same.
NOT_OF_THE_GRAPH = {
    "record", "standby", "failpoints", "health_port", "health_host", "log_level", "log_format", "model_prices", "hosts",
}  # fmt: skip


def recorded(behaviour: Behaviour[Effects], config: AgentConfig, nodes: Sequence[str] = ()) -> Behaviour[Effects]:
    """The behaviour, recorded if the settings say so. `nodes`: the names of a program's own in its graph.

    Raises ConfigError: the folder cannot be used."""
    if config.record is None:
        return behaviour
    recording_folder(config.record)
    return Recorded(behaviour, config, nodes)


class Recorded(Behaviour[Effects]):
    """Writes what the loop hands to a behaviour, and what that decides. The loop sees no difference."""

    def __init__(
        self,
        behaviour: Behaviour[Effects],
        config: AgentConfig,
        nodes: Sequence[str] = (),
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._behaviour = behaviour
        self._config = config
        self._nodes = list(nodes)
        self._limit_bytes = limit_bytes
        self._head = Head(SHAPE, installed_version())
        self._file: LifeFile | None = None

    @property
    def state(self) -> LocalAgentState:
        return self._behaviour.state

    async def load(self, loop: AgentLoop) -> None:
        """Has the behaviour read its state, and begins the file of a new life."""
        with noted_reads(loop.committer) as reads:
            await self._behaviour.load(loop)
        beginning = Beginning(
            chain=[str(address) for address in loop.setup.chain],
            config=self._config.model_dump(mode="json", exclude_defaults=True, exclude=NOT_OF_THE_GRAPH),
            incarnation=loop.committer.lease.incarnation,
            read_ms=self.state.read_ms,
            draining=loop.draining,
            nodes=self._nodes,
        )
        keep_reads(reads, loop.setup.signing.seals, beginning)
        if self._file is not None:
            self._file.close()
        assert self._config.record
        folder = recording_folder(self._config.record)
        self._file = LifeFile(folder, loop.setup.me, self._head, beginning, self._limit_bytes)
        weakref.finalize(self, self._file.close)

    def decide(self, batch: Batch) -> Step:
        assert self._file
        moment = moment_of(batch)  # before it: a step sets the answers of its calls
        try:
            step = self._behaviour.decide(batch)
        except Exception as error:
            self._file.write(Turn(moment, [failure_line(error)]))
            raise
        lines = step_lines(step, batch.events, self.next_wake_ms(), drained=self.drained)
        self._file.write(Turn(moment, lines))
        return step

    def beat(self) -> Beat:
        return self._behaviour.beat()

    def figures(self, now: datetime) -> Figures:
        return self._behaviour.figures(now)

    def looked_up(self, received: Sequence[Received], events: Sequence[Event], now: datetime) -> list[str]:
        return self._behaviour.looked_up(received, events, now)

    async def perform(self, effects: Sequence[Effects]) -> None:
        await self._behaviour.perform(effects)

    def next_wake_ms(self) -> int | None:
        return self._behaviour.next_wake_ms()

    @property
    def first_waiting(self) -> str | None:
        return self._behaviour.first_waiting

    @property
    def paused(self) -> bool:
        return self._behaviour.paused

    @property
    def drained(self) -> bool:
        return self._behaviour.drained
