"""The LangGraph graph of a tier: how it is built, and how it is run.

It runs once for each batch of any size, since a run costs some tenths of a millisecond in any case. Its context is its
input: the agent's memory and the batch. Its state is its output: the step. The nodes change both in place, so that
LangGraph has nothing to merge. That is safe since nothing else refers to them: if the commit fails for good, the
process discards its memory and reads the stored state again.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from inspect import iscoroutinefunction
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, cast
from weakref import finalize

from langchain_core.runnables import RunnableConfig
from langgraph.channels import LastValue
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import Runtime
from langgraph.types import Command

from core.errors import ConfigError
from core.event_types import EventLevel
from core.step import Batch, Step

__all__ = [
    "After", "Before", "Stage", "TickContext", "TickState", "TierGraph", "built", "first_run", "names_of", "stage",
    "tier_graph", "with_added",
]  # fmt: skip

Memory = TypeVar("Memory")

#: Number of ticks in a run. LangGraph keeps about eighty bytes of each, so that an endless run would grow.
TICKS_A_RUN = 10_000
#: Stands for the input of a run between two ticks.
NOTHING: Any = None
#: The channel of a turning graph.
TURN = "turn"


class TickState(TypedDict):
    """The state of a tier's graph: what the run decides."""

    step: Step


@dataclass(slots=True)
class TickContext(Generic[Memory]):
    """The context of a tick, which is its input. It is reused for the next tick, so no node may keep it."""

    memory: Memory  #: the agent's own, as the last tick left it
    batch: Batch


@dataclass(slots=True)
class Turning(TickContext[Any]):
    """The context of a turning graph: that of its current tick."""

    step: Step


Graph: TypeAlias = StateGraph[TickState, TickContext[Any], TickState, TickState]
Compiled: TypeAlias = CompiledStateGraph[TickState, TickContext[Any], TickState, TickState]
Turns: TypeAlias = Pregel[Any, Any, Any, Any]
Due: TypeAlias = Callable[[Batch], bool]


class Node(Protocol):
    """The function of a node: plain, without I/O, called by LangGraph. It fills the step."""

    def __call__(self, state: TickState, runtime: Runtime[TickContext[Any]]) -> None: ...


class Stage(NamedTuple):
    """A node of a tier's graph. The graph runs its stages in order and skips those that are not due."""

    name: str
    run: Node
    due: Due | None = None  #: None: in every run


def stage(rule: Callable[[Any, Batch, Step], None], due: Due | None = None) -> Stage:
    """A stage named after its rule. The rule changes the agent's memory and fills the step."""

    def run(state: TickState, runtime: Runtime[TickContext[Any]]) -> None:
        rule(runtime.context.memory, runtime.context.batch, state["step"])

    return Stage(rule.__name__, run, due)


class Before(NamedTuple):
    """A node of a program that runs before the tier's node `anchor`, whenever that one runs."""

    anchor: str
    node: Node


class After(NamedTuple):
    """A node of a program that runs after the tier's node `anchor`, whenever that one runs."""

    anchor: str
    node: Node


def names_of(nodes: Sequence[Before | After]) -> list[str]:
    """The names that the nodes of a program have in the graph."""
    return [getattr(new.node, "__name__", type(new.node).__name__) for new in nodes]


def with_added(stages: Sequence[Stage], nodes: Sequence[Before | After]) -> list[Stage]:
    """The stages, with the nodes of a program inserted. Nodes at one place keep the order in which they are given.

    Raises ConfigError: there is no such place, two nodes have one name, or a node is a coroutine function."""
    names = [stage.name for stage in stages]
    if unknown := sorted({node.anchor for node in nodes} - {*names}):
        raise ConfigError(f"there is no node {', '.join(map(repr, unknown))} here: name one of {', '.join(names)}")
    line: list[Stage] = []
    for stage in stages:
        line += [added(new, stage) for new in nodes if isinstance(new, Before) and new.anchor == stage.name]
        line.append(stage)
        line += [added(new, stage) for new in nodes if isinstance(new, After) and new.anchor == stage.name]
    names = [stage.name for stage in line]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two nodes are called {', '.join(twice)}: give each function a name of its own")
    return line


def added(new: Before | After, anchor: Stage) -> Stage:
    """A node of a program as a stage. An exception costs only the node's own decision, and is noted. It must not reach
    the loop, which would blame the messages of the batch and put them aside."""
    node, [name] = new.node, names_of([new])
    if iscoroutinefunction(node) or iscoroutinefunction(getattr(node, "__call__", None)):  # noqa: B004 - not a test
        raise ConfigError(f"{name} is a coroutine function: a node is a plain function, which does no I/O")

    def run(state: TickState, runtime: Runtime[TickContext[Any]]) -> None:
        try:
            node(state, runtime=runtime)
        except Exception as error:
            state["step"].note("node_failed", node=name, error=f"{type(error).__name__}: {error}")

    return Stage(name, run, anchor.due)


def built(name: str, stages: tuple[Stage, ...], nodes: Sequence[Before | After] = ()) -> TierGraph:
    """The compiled graph of a tier. All agents of a process share it, except those with nodes of a program.

    Raises ConfigError: a node cannot be put where it is meant to be."""
    return tier_graph(name, with_added(stages, nodes)) if nodes else _common(name, stages)


def tier_graph(name: str, stages: Sequence[Stage]) -> TierGraph:
    """The compiled graph of a tier, ready to run. The first stage must always be due."""
    graph: Graph = StateGraph(TickState, context_schema=TickContext)
    graph.add_edge(START, stages[0].name)
    for place, stage in enumerate(stages):
        ways = ways_from(stage, stages[place + 1 :])
        if len(ways) == 1:
            graph.add_node(stage.name, stage.run)
            graph.add_edge(stage.name, ways[None])
        else:
            graph.add_node(stage.name, choosing(stage, ways), destinations=tuple(ways.values()))
    return TierGraph(graph.compile(name=name), turning(stages))


_common = cache(tier_graph)


def turning(stages: Sequence[Stage]) -> Turns:
    """The same stages as a graph that turns as long as its agent lives: a single node runs a tick, and is followed by
    itself.

    Starting a run costs LangGraph more than continuing one, and each further node costs as much as this whole node. It
    consists of a channel and a write to it, since a node with a state of its own would cost as much again."""

    def tick(runtime: Runtime[Any]) -> Runtime[Any]:
        current: Turning = runtime.context
        decided: TickState = {"step": current.step}
        for stage in stages:
            if stage.due is None or stage.due(current.batch):
                stage.run(decided, runtime)
        return runtime

    return Pregel(
        nodes={"tick": NodeBuilder().subscribe_only(TURN).write_to(**{TURN: tick})},
        channels={TURN: LastValue(Runtime)},
        input_channels=TURN,
        output_channels=TURN,
    )


def ways_from(stage: Stage, following: Sequence[Stage]) -> dict[Due | None, str]:
    """Where a run can continue after a stage, by what decides it: at the stages that may not be due, and otherwise
    (None) at the first that always is."""
    ways: dict[Due | None, str] = {}
    for later in following:
        certain = later.due in (None, stage.due)
        ways.setdefault(None if certain else later.due, later.name)
        if certain:
            return ways
    return {**ways, None: END}


def choosing(stage: Stage, ways: Mapping[Due | None, str]) -> Callable[..., Command[str]]:
    """The node of a stage, which itself names the next node, since a conditional edge would cost half a node more."""

    def run(state: TickState, runtime: Runtime[TickContext[Any]]) -> Command[str]:
        stage.run(state, runtime)
        batch = runtime.context.batch
        return Command(goto=next(way for due, way in ways.items() if due is None or due(batch)))

    return run


class TierGraph:
    """The compiled graph of a tier, and a faster way to run it."""

    def __init__(self, graph: Compiled, turning: Turns) -> None:
        self.graph = graph  #: as LangGraph compiled it: to be drawn, and invoked with a TickState and a TickContext
        self._turning = turning
        self._at_rest: list[Run] = []

    def run(self, memory: object, batch: Batch, level: EventLevel = EventLevel.ALL) -> Step:
        """The step that the graph takes on `batch`, with the events that are told at `level`. Nodes are plain functions
        without I/O, so this never blocks."""
        try:
            run = self._at_rest.pop()
        except IndexError:  # the first tick, or an agent in another thread is at one
            run = Run(self._turning)
        step = run.tick(memory, batch, level)  # a run does not go on after an error
        if run.ticks_left:
            self._at_rest.append(run)
        return step


class Run:
    """One run of a turning graph, which is suspended between two ticks."""

    def __init__(self, graph: Turns) -> None:
        self._now = Turning(NOTHING, NOTHING, NOTHING)
        self.ticks_left = TICKS_A_RUN
        self._context = untraced().copy()
        config: RunnableConfig = {"recursion_limit": TICKS_A_RUN, "max_concurrency": 1}
        # The run yields after each tick, and is suspended there.
        ticks = self._context.run(graph.stream, Runtime(context=self._now), config, stream_mode="values")
        self._ticks = cast(Generator[Any, None, None], ticks)
        finalize(self, self._context.run, self._ticks.close)

    def tick(self, memory: object, batch: Batch, level: EventLevel) -> Step:
        now, step = self._now, Step(tells=level.types)
        now.memory, now.batch, now.step = memory, batch, step
        self._context.run(next, self._ticks)
        now.memory = now.batch = now.step = NOTHING  # at rest it keeps no agent's memory, and no messages
        self.ticks_left -= 1
        return step


@cache
def untraced() -> Context:
    """A context in which runs are not traced, whatever the environment says. LANGSMITH_TRACING is meant for the graphs
    of users, and a trace of a tier would contain everybody's payloads."""
    from langsmith.run_helpers import tracing_context

    context = Context()
    off = tracing_context(enabled=False)
    context.run(off.__enter__)
    atexit.register(context.run, off.__exit__, None, None, None)  # the context must not be collected earlier
    return context


def first_run() -> None:
    """Runs a graph that does nothing: LangGraph imports more at its first run."""
    nothing = Stage("nothing", lambda state, runtime: None)
    graph = tier_graph("nothing", [nothing]).graph
    untraced().copy().run(lambda: graph.invoke({"step": Step()}))
