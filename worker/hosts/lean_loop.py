"""LangGraph's loop, without what it makes of checkpoints that nobody will read.

The run of a graph with one node has nothing to keep until that node has ended, and nothing any more when the run has
ended with it. LangGraph makes three checkpoints of it nevertheless, which takes as long as a quarter of the run. This
loop makes none until there is something to keep: a second superstep, a question, an error, a task beside the node, a
graph within it, a drain. Then it makes the one that LangGraph would have made last, with its writes, and goes on as
LangGraph does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import main
from langgraph.pregel._loop import AsyncPregelLoop

from core.checkpoints.blocking import Done
from worker.hosts.run_storage import RunSaver

__all__ = ["LeanLoop", "use_lean_loops"]

#: What is replaced here, or used. Where LangGraph has it no longer, its own loop runs, which only takes longer.
USED = (
    "tick",
    "put_writes",
    "amatch_cached_writes",
    "_put_checkpoint",
    "_put_pending_writes",
    "_suppress_interrupt",
)
START = "__start__"
#: The key of the config that says that a graph runs in a node of another one.
NESTED = "__pregel_task_id"
#: The types of values that no node can change in place.
UNCHANGING = frozenset({str, int, float, bool, bytes, type(None), object})


def use_lean_loops() -> None:
    """Lets the graphs of this process run in this loop. Graphs that have no RunSaver see no difference."""
    names: dict[str, Any] = vars(main)
    if names.get("AsyncPregelLoop") is AsyncPregelLoop and all(hasattr(AsyncPregelLoop, name) for name in USED):
        names["AsyncPregelLoop"] = LeanLoop


class LeanLoop(AsyncPregelLoop):
    """One run."""

    _saver: RunSaver | None = None  #: as long as nothing is kept; then LangGraph's ways are those of its own loop
    node_ended = False  #: whether a node has written
    #: The id of the checkpoint with which the node has begun, and by channel, what the node may change in place.
    _before: tuple[str, Mapping[str, tuple[str, bytes]]] = "", {}
    _kept: Sequence[asyncio.Future[Any]] = ()  #: what is on its way to the saver since then

    def __init__(self, input: Any, **given: Any) -> None:
        saver = given["checkpointer"]
        if not (isinstance(saver, RunSaver) and saver.may_be_lean and _has_one_node(**given)):
            super().__init__(input, **given)
            return
        super().__init__(input, **{**given, "checkpointer": None})  # as if nothing were stored
        self.checkpointer, self.checkpointer_get_next_version = saver, saver.get_next_version
        self._saver, saver.lean_loop, saver.may_be_lean = saver, self, False  # another graph of the run goes on from it
        self._put_checkpoint_fut: Any = Done()

    def put_writes(self, task_id: str, writes: Any, *, cached: bool = False) -> None:
        if self._saver is not None and writes and self._is_to_be_kept(task_id, writes):
            self.keep()
        super().put_writes(task_id, writes, cached=cached)

    def _is_to_be_kept(self, task_id: str, writes: Sequence[tuple[str, Any]]) -> bool:
        """Whether something is to be kept once a task has written this."""
        tasks = getattr(self, "tasks", {})
        if (task := tasks.get(task_id)) is None:
            return True
        if task.name == START:
            return False
        self.node_ended = True
        return len(tasks) > 1 or any(channel in WRITES_IDX_MAP for channel, _ in writes)

    def tick(self) -> bool:
        goes_on = super().tick()
        if goes_on and (saver := self._saver) is not None:
            if self.node_ended:
                self.keep()
            elif START not in {task.name for task in self.tasks.values()}:
                self._remember(saver)
        return goes_on

    def _remember(self, saver: RunSaver) -> None:
        """Remembers what the node that begins now may change in place."""
        try:
            values = {
                name: saver.serde.dumps_typed(value)
                for name, channel in self.channels.items()
                if type(value := channel.checkpoint()) not in UNCHANGING
            }
        except (TypeError, ValueError):  # it cannot be stored: that ends the run, as it does in LangGraph's own loop
            self.keep()
        else:
            self._before = self.checkpoint["id"], values

    async def amatch_cached_writes(self) -> Sequence[Any]:
        """LangGraph calls this before the nodes of a superstep run: they wait for what is to be kept."""
        await self._stored()
        return await super().amatch_cached_writes()

    def _suppress_interrupt(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._saver is not None:
            if exc_type is None and self.status == "done":
                self._saver.is_over = True
            elif exc_type is None or issubclass(exc_type, GraphBubbleUp):
                self.keep()
        return super()._suppress_interrupt(exc_type, exc_value, traceback)

    async def kept(self) -> None:
        """Returns when the saver has everything, from now on as LangGraph puts it."""
        self.keep()
        await self._stored()

    def keep(self) -> None:
        """Puts the checkpoint that there is, and what was written on top of it. From now on LangGraph puts."""
        if (saver := self._saver) is None:
            return
        self._saver = saver.lean_loop = None
        saver.has_begun = saver.has_begun or self.node_ended
        del self._checkpointer_put_after_previous, self._put_checkpoint_fut  # the class has the first
        self.checkpointer_put_writes, self.checkpointer_put_writes_accepts_task_path = saver.aput_writes, True
        submit: Any = self.submit
        puts: list[asyncio.Future[Any]] = []

        def submitted(*call: Any) -> Any:
            puts.append(submit(*call))
            return puts[-1]

        self.submit: Any = submitted
        channels = self.channels
        try:
            self.channels = {**channels, **self._channels_before(saver)}
            self._put_checkpoint(self.checkpoint_metadata)
            self._put_pending_writes()
        finally:
            self.submit, self.channels = submit, channels
        self._kept = puts

    def _channels_before(self, saver: RunSaver) -> dict[str, Any]:
        """The channels whose values the node may have changed in place, as they were before it."""
        checkpoint_id, values = self._before
        if checkpoint_id != self.checkpoint["id"]:
            return {}
        read = saver.serde.loads_typed
        return {name: self.channels[name].from_checkpoint(read(value)) for name, value in values.items()}

    async def _stored(self) -> None:
        if self._kept:
            kept, self._kept = self._kept, ()
            await asyncio.gather(*kept)


def _has_one_node(*, nodes: Any, specs: Mapping[str, Any], config: Any, **_: Any) -> bool:
    """Whether a loop runs a graph of one node, which stands in no other graph."""
    one, nested = len(nodes) == 2 and START in nodes, NESTED in config["configurable"]
    return one and not nested and not any(isinstance(spec, DeltaChannel) for spec in specs.values())
