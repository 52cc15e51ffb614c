"""Random programs of agents: whatever they send, publish, ask, stop and start, the promises of the engine hold.

An agent writes down what it handles. Each message is a plan: what its handler does, one step after the other."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.engine import (
    AgentId,
    BaseAgent,
    EngineStopped,
    LocalAgentEngine,
    MessageContext,
    RequestRing,
    TopicId,
    TypeSubscription,
)

TYPES = ("a", "b", "c")
NEWS = TopicId("news", "1")


class Broken(Exception):
    """A handler has raised it on purpose."""


@dataclass(frozen=True)
class Plan:
    """What a handler does: `pause`, `raise`, or a step with a plan of its own for others."""

    steps: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Planned:
    """A plan on its way: who has sent it, and the how manyth it is from there to there."""

    plan: Plan
    source: str
    number: int


@dataclass
class World:
    """What a test sees."""

    bound: int
    ignore: bool
    numbers: Any = field(default_factory=count)
    at_work: Counter[AgentId] = field(default_factory=Counter)
    built: Counter[AgentId] = field(default_factory=Counter)
    began: dict[AgentId, list[Planned]] = field(default_factory=dict)
    published: list[Planned] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)

    def planned(self, plan: Plan, source: str) -> Planned:
        return Planned(plan, source, next(self.numbers))

    async def ask(self, sender: Any, plan: Plan, source: str, to: AgentId) -> None:
        """A request ends with the number it was sent with, or in one of the ways that are promised."""
        planned = self.planned(plan, source)
        try:
            assert await sender.send_message(planned, to) == planned.number
        except (RequestRing, EngineStopped, Broken):
            return

    async def publish(self, sender: Any, plan: Plan, source: str) -> None:
        planned = self.planned(plan, source)
        self.published.append(planned)
        await sender.publish_message(planned, NEWS)


class Planner(BaseAgent):
    """Does what a plan says."""

    def __init__(self, world: World) -> None:
        super().__init__("does what a plan says")
        self._world = world
        world.built[self.id] += 1

    async def on_message_impl(self, message: Planned, ctx: MessageContext) -> int:
        world = self._world
        assert not world.at_work[self.id], "one message at a time"
        world.at_work[self.id] += 1
        world.began.setdefault(self.id, []).append(message)
        try:
            for step in message.plan.steps:
                await self.do(*step)
            return message.number
        finally:
            world.at_work[self.id] -= 1

    async def do(self, what: str, plan: Plan = Plan(), *to: str) -> None:
        world, source = self._world, str(self.id)
        if what == "pause":
            await asyncio.sleep(0)
        elif what == "raise":
            raise Broken
        elif what == "publish":
            await world.publish(self, plan, source)
        elif what == "stop":
            await ends(self.runtime, world, self.runtime.stop())  # type: ignore[attr-defined, arg-type]
        else:
            await asyncio.gather(*(world.ask(self, plan, source, AgentId(name, "1")) for name in to))


def plans(depth: int) -> st.SearchStrategy[Plan]:
    plain: st.SearchStrategy[tuple[Any, ...]] = st.sampled_from(
        [("pause",), ("pause",), ("pause",), ("raise",), ("stop",)]
    )
    if not depth:
        return st.builds(Plan, st.lists(plain, max_size=2).map(tuple))
    names = st.lists(st.sampled_from(TYPES), min_size=1, max_size=2)
    ask = st.tuples(plans(depth - 1), names).map(lambda pair: ("ask", pair[0], *pair[1]))
    publish = plans(depth - 1).map(lambda plan: ("publish", plan))
    return st.builds(Plan, st.lists(st.one_of(plain, ask, publish), max_size=3).map(tuple))


PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), plans(3), st.sampled_from(TYPES)),
        st.tuples(st.just("publish"), plans(3)),
        st.just(("stop",)),
        st.just(("idle",)),
        st.just(("save",)),
        st.just(("pause",)),
    ),
    max_size=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS, bound=st.integers(1, 4), ignore=st.booleans())
def test_whatever_agents_do_to_each_other_the_promises_hold(
    program: list[tuple[Any, ...]], bound: int, ignore: bool
) -> None:
    asyncio.run(asyncio.wait_for(runs(program, World(bound, ignore)), 20))


async def runs(program: list[tuple[Any, ...]], world: World) -> None:
    engine = LocalAgentEngine(
        mailbox_size=world.bound, ignore_unhandled_exceptions=world.ignore, keep_dead_letters=10**6
    )
    for name in TYPES:
        await engine.register_agent_builder(name, lambda: Planner(world))
        await engine.subscribe(TypeSubscription("news", name))
    engine.start()
    tasks = [asyncio.create_task(one(engine, world, *step)) for step in program]
    await asyncio.gather(*tasks)
    await ends(engine, world, engine.stop_when_idle())

    assert engine.unprocessed_messages_count == 0
    assert not any(world.at_work.values())
    assert set(world.built.values()) <= {1}
    for began in world.began.values():
        check_order(world, began)
    check_publications(engine, world)
    failed = [letter.error for letter in engine.dead_letters if letter.reason == "its handler has failed"]
    assert sorted(map(id, world.raised)) == ([] if world.ignore else sorted(map(id, failed)))


async def one(engine: LocalAgentEngine, world: World, what: str, *more: Any) -> None:
    """One thing that a program does, beside all others."""
    if what == "ask":
        await world.ask(engine, more[0], "program", AgentId(more[1], "1"))
    elif what == "publish":
        await world.publish(engine, more[0], "program")
    elif what == "stop":
        await ends(engine, world, engine.stop())
    elif what == "idle":
        await ends(engine, world, engine.stop_when_idle())
    elif what == "save":
        assert json.dumps(await engine.save_state())
    else:
        await asyncio.sleep(0)


async def ends(engine: LocalAgentEngine, world: World, stopping: Any) -> None:
    """Waits until the engine has stopped, and starts it again; several may do so at once."""
    try:
        await stopping
    except RuntimeError:
        return  # another has stopped it
    except Broken as error:
        world.raised.append(error)
    except ExceptionGroup as errors:
        world.raised.extend(errors.exceptions)
    try:
        engine.start()
    except RuntimeError:
        return


def check_order(world: World, began: list[Planned]) -> None:
    """An agent gets each message once, and what another has published, in the order in which that has published it."""
    assert len({planned.number for planned in began}) == len(began)
    for name in TYPES:
        numbers = [one.number for one in began if one.source == f"{name}/1" and one in world.published]
        assert numbers == sorted(numbers)


def check_publications(engine: LocalAgentEngine, world: World) -> None:
    """Each reaches all that listen, but for its sender, or is a dead letter."""
    dropped = Counter((letter.message.number, str(letter.receiver)) for letter in engine.dead_letters)
    for planned in world.published:
        for name in TYPES:
            agent_id = AgentId(name, "1")
            if planned.source == str(agent_id):
                continue
            got = sum(planned.number == other.number for other in world.began.get(agent_id, ()))
            lost = dropped[planned.number, str(agent_id)] or dropped[planned.number, str(NEWS)]
            assert got == 1 or (got == 0 and lost), (planned, name)
