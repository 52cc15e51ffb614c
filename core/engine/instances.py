"""The agents of an engine: how each type is built, and those that are there: one of each id, whatever races."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from asyncio import Future
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from core.engine.agent import Agent, BaseAgent
from core.engine.agent_id import AgentId
from core.engine.contexts import AgentInstantiationContext
from core.engine.exceptions import AgentNotFound
from core.engine.work import Work, current_work, enter, leave, refuse_ring

if TYPE_CHECKING:
    from core.engine.agent_engine import AgentEngine

__all__ = ["Instances"]


class _Construction(Work):
    """An agent is built. `over` is done when it is, or when that has failed."""

    __slots__ = ("over",)

    def __init__(self, agent_id: AgentId) -> None:
        super().__init__(agent_id)
        self.over: Future[None] = asyncio.get_running_loop().create_future()


class Instances:
    """Builds agents when they are first asked for. `not_built` is called with what a builder has raised."""

    def __init__(self, engine: AgentEngine, not_built: Callable[[AgentId, Exception], None]) -> None:
        self._engine = engine
        self._not_built = not_built
        self._builders: dict[str, _Builder] = {}
        self._classes_of_instances: dict[str, type] = {}  #: types whose agents were handed in
        self._constructions: dict[AgentId, _Construction] = {}
        self.there: dict[AgentId, Agent] = {}
        self.stored: dict[AgentId, Mapping[str, Any]] = {}  #: states of agents that were not built yet

    def knows(self, agent_id: AgentId) -> bool:
        """Whether the agent is there or can be built."""
        return agent_id.type in self._builders or agent_id in self.there

    def register(self, type: str, builder: Callable[..., Any], expected_class: type | None) -> None:
        """Raises ValueError for a type that is taken, or a builder that takes other than 0 or (deprecated) 2
        arguments."""
        self._refuse_if_taken(type)
        self._builders[type] = _Builder(self._engine, builder, expected_class)

    async def take_in(self, agent: Agent, agent_id: AgentId) -> None:
        """Raises ValueError when the id is taken, or its type has a builder, or agents of another class."""
        known = self._classes_of_instances.get(agent_id.type)
        if known is None:
            self._refuse_if_taken(agent_id.type)
        elif known is not type(agent):
            raise ValueError(f"agents of type {agent_id.type!r} are of {known.__name__}, not {type(agent).__name__}")
        if agent_id in self.there:
            raise ValueError(f"there is an agent {str(agent_id)!r} already")
        self._classes_of_instances[agent_id.type] = type(agent)
        self.there[agent_id] = agent
        try:
            await agent.bind_id_and_runtime(id=agent_id, runtime=self._engine)
            await self._load_stored(agent_id, agent)
        except BaseException:
            del self.there[agent_id]
            raise

    async def instance(self, agent_id: AgentId) -> Agent:
        """The agent; it is built if it was not yet. Raises AgentNotFound, what its builder raises, or RequestRing if
        that waits for itself."""
        while True:
            agent = self.there.get(agent_id)
            if agent is not None:
                return agent
            construction = self._constructions.get(agent_id)
            if construction is None:
                return await self._build(agent_id)
            await self._until_over(construction)

    async def _until_over(self, construction: _Construction) -> None:
        """Whoever comes second waits for the first. When that has failed, the next one tries."""
        waiter = current_work()
        refuse_ring(waiter, construction)
        if waiter is not None:
            waiter.waits[construction] = None
        try:
            await asyncio.shield(construction.over)
        finally:
            if waiter is not None:
                waiter.waits.pop(construction, None)

    async def _build(self, agent_id: AgentId) -> Agent:
        builder = self._builders.get(agent_id.type)
        if builder is None:
            raise AgentNotFound(agent_id)
        waiter, construction = current_work(), _Construction(agent_id)
        self._constructions[agent_id] = construction
        if waiter is not None:
            waiter.waits[construction] = None
        token = enter(construction)
        try:
            with AgentInstantiationContext.populate_context((self._engine, agent_id)):
                agent = await builder()
            if isinstance(agent, BaseAgent):  # it may have been made before it was asked for
                await agent.bind_id_and_runtime(agent_id, self._engine)
            await self._load_stored(agent_id, agent)
        except Exception as error:
            self._not_built(agent_id, error)
            raise
        else:
            self.there[agent_id] = agent
            return agent
        finally:
            leave(token)
            construction.ended = True
            if waiter is not None:
                waiter.waits.pop(construction, None)
            del self._constructions[agent_id]
            construction.over.set_result(None)

    async def _load_stored(self, agent_id: AgentId, agent: Agent) -> None:
        state = self.stored.get(agent_id)
        if state is not None:
            await agent.load_state(state)
            self.stored.pop(agent_id, None)

    def _refuse_if_taken(self, type: str) -> None:
        if type in self._builders or type in self._classes_of_instances:
            raise ValueError(f"agents of type {type!r} are registered already")


class _Builder:
    """Calls a builder of a program, and looks at what comes back."""

    def __init__(self, engine: AgentEngine, builder: Callable[..., Any], expected_class: type | None) -> None:
        self._builder, self._expected = builder, expected_class
        taken = _arguments(builder)
        if taken not in {0, 2}:
            raise ValueError(f"a builder takes no arguments, and this one takes {taken}: {builder!r}")
        if taken == 2:
            warnings.warn(
                "A builder that takes engine and id is deprecated: it can ask AgentInstantiationContext for them.",
                DeprecationWarning,
                stacklevel=4,
            )
        self._engine = engine if taken == 2 else None

    async def __call__(self) -> Agent:
        if self._engine is None:
            made = self._builder()
        else:
            made = self._builder(self._engine, AgentInstantiationContext.current_agent_id())
        agent: Agent = await made if inspect.isawaitable(made) else made
        if not callable(getattr(agent, "on_message", None)):
            raise TypeError(f"the builder has made {type(agent).__name__}, which is no agent")
        if self._expected is not None and not isinstance(agent, self._expected):
            raise ValueError(f"the builder has made {type(agent).__name__}, and not {self._expected.__name__}")
        return agent


def _arguments(builder: Callable[..., Any]) -> int:
    """How many it cannot be called without."""
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(
        parameter.kind in positional and parameter.default is inspect.Parameter.empty
        for parameter in inspect.signature(builder).parameters.values()
    )
