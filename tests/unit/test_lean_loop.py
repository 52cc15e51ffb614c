"""A run that makes no checkpoint before there is something to keep, beside LangGraph's own loop."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.pregel import main as pregel_main
from langgraph.pregel._loop import AsyncPregelLoop
from langgraph.runtime import RunControl
from langgraph.types import Command, interrupt

from core.agent_run import RunOptions
from core.checkpoints.memory_storage import MemoryStorage
from core.checkpoints.storage import Fence, Selection
from worker.hosts.lean_loop import LeanLoop, use_lean_loops
from worker.hosts.run_storage import RunSaver

THREAD, ANY = "thread", Selection(limit=100)


class State(TypedDict):
    number: int
    text: str
    things: list[str]


@pytest.fixture(params=["lean", "LangGraph's"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose loop runs the graphs of a test."""
    monkeypatch.setattr(pregel_main, "AsyncPregelLoop", AsyncPregelLoop)
    if request.param == "lean":
        use_lean_loops()
        assert vars(pregel_main)["AsyncPregelLoop"] is LeanLoop
    return str(request.param)


class Attempt:
    """One attempt at a run in a thread of its own, as a host makes it."""

    def __init__(self, node: Any, storage: MemoryStorage, number: int = 1, **options: Any) -> None:
        builder: StateGraph[Any] = StateGraph(State)
        self.graph: Any = builder.add_node("only", node).add_edge(START, "only").compile(**options)
        self.saver = RunSaver(storage, Fence(0, number), RunOptions(), own_thread=True)
        self.is_new = number == 1
        self.seen: list[Any] = []
        place = {"thread_id": THREAD, "__pregel_checkpointer": self.saver}
        self.config: Any = {"configurable": place, "recursion_limit": 6}

    async def run(self, given: Any, control: RunControl | None = None) -> None:
        await self.saver.begin(THREAD, is_new=self.is_new, undoes=())
        self.saver.recognise_the_end(self.graph.trigger_to_nodes)
        async for chunk in self.graph.astream(
            given, self.config, stream_mode="values", durability="sync", control=control
        ):
            self.seen.append(chunk)

    async def state(self) -> Any:
        return await self.graph.aget_state({"configurable": {"thread_id": THREAD, **self.config["configurable"]}})


def storage() -> MemoryStorage:
    return MemoryStorage(lambda: 0)


async def test_a_run_that_ends_with_its_only_node_stores_nothing_and_is_known_to_be_over(loop: str) -> None:
    attempt = Attempt(lambda state: {"text": "done"}, storage())
    await attempt.run({"number": 1, "text": ""})

    assert attempt.seen[-1] == {"number": 1, "text": "done"}
    assert (attempt.saver.is_over, attempt.saver.stored) == (True, False)
    await attempt.saver.store_all()
    state = await attempt.state()
    assert (attempt.saver.is_over, attempt.saver.stored) == (True, True)
    assert state.values == {"number": 1, "text": "done"}
    assert state.next == ()


async def test_what_a_node_asks_is_stored_and_answered_in_another_attempt(loop: str) -> None:
    kept, begun = storage(), []

    def ask(state: State) -> dict[str, str]:
        begun.append(1)
        return {"text": interrupt("sure?")}

    first = Attempt(ask, kept)
    await first.run({"number": 1, "text": ""})
    state = await first.state()
    assert not first.saver.is_over
    assert state.next == ("only",)
    assert [each.value for each in state.tasks[0].interrupts] == ["sure?"]

    second = Attempt(ask, kept, 2)
    await second.run(Command(resume="yes"))
    assert second.seen[-1] == {"number": 1, "text": "yes"}
    assert second.saver.is_over
    assert len(begun) == 2


async def test_what_a_node_changes_in_place_before_it_asks_is_stored_as_it_was(loop: str) -> None:
    kept = storage()

    def change(state: State) -> dict[str, Any]:
        state["things"].append("changed")
        return {"text": interrupt("sure?")}

    attempt = Attempt(change, kept)
    await attempt.run({"number": 1, "text": "", "things": ["given"]})
    assert (await attempt.state()).values["things"] == ["given"]


async def test_a_node_that_calls_itself_is_stored_before_it_runs_again(loop: str) -> None:
    kept, stored = storage(), []

    async def again(state: State) -> Command[Any]:
        stored.append([each.checkpoint_id for each in await kept.read(THREAD, ANY)])
        return Command(update={"number": state["number"] + 1}, goto="only" if state["number"] < 2 else [])

    attempt = Attempt(again, kept)
    await attempt.run({"number": 0, "text": ""})
    assert attempt.seen[-1]["number"] == 3
    assert not stored[0]
    assert stored[1]
    assert len(stored[2]) > len(stored[1])


async def test_a_run_whose_node_has_failed_on_its_second_call_goes_on_there(loop: str) -> None:
    kept, ran = storage(), []

    def fails_once(state: State) -> Command[Any]:
        ran.append(state["number"])
        if ran == [0, 1]:
            raise ValueError("once")
        return Command(update={"number": state["number"] + 1}, goto="only" if state["number"] < 2 else [])

    with pytest.raises(ValueError, match="once"):
        await Attempt(fails_once, kept).run({"number": 0, "text": ""})
    second = Attempt(fails_once, kept, 2)
    await second.run(None)
    assert ran == [0, 1, 1, 2]
    assert second.seen[-1]["number"] == 3


async def test_what_a_task_within_the_node_has_done_is_not_done_again(loop: str) -> None:
    kept, done, fails = storage(), [], [True]

    @task
    async def part(number: int) -> int:
        done.append(number)
        return number * 10

    async def parts(state: State) -> dict[str, int]:
        found = await part(1) + await part(2)
        if fails:
            fails.clear()
            raise ValueError("after its parts")
        return {"number": found}

    with pytest.raises(ValueError, match="after its parts"):
        await Attempt(parts, kept).run({"number": 0, "text": ""})
    second = Attempt(parts, kept, 2)
    await second.run(None)
    assert done == [1, 2]
    assert second.seen[-1]["number"] == 30


async def test_what_a_graph_within_the_node_has_done_is_not_done_again(loop: str) -> None:
    kept, ran, fails = storage(), [], [True]

    def first(state: State) -> dict[str, str]:
        ran.append("first")
        return {"text": "first"}

    def second(state: State) -> dict[str, str]:
        ran.append("second")
        if fails:
            fails.clear()
            raise ValueError("within")
        return {"text": state["text"] + " second"}

    inner: Any = StateGraph(State).add_sequence([first, second]).add_edge(START, "first").compile()

    class Holder:
        async def __call__(self, state: State) -> Any:
            return await inner.ainvoke(state)

    node = Holder()
    with pytest.raises(ValueError, match="within"):
        await Attempt(node, kept).run({"number": 0, "text": ""})
    again = Attempt(node, kept, 2)
    await again.run(None)
    assert ran == ["first", "second", "second"]
    assert again.seen[-1]["text"] == "first second"


@pytest.mark.parametrize("stop", ["interrupt_before", "interrupt_after"])
async def test_a_stop_at_the_node_is_one_to_go_on_from(loop: str, stop: str) -> None:
    kept, ran = storage(), []

    def node(state: State) -> Command[Any]:
        ran.append(state["number"])
        update = {"number": state["number"] + 1, "things": ["new"]}
        return Command(update=update, goto="only" if state["number"] < 1 else [])

    first = Attempt(node, kept, 1, **{stop: ["only"]})
    await first.run({"number": 0, "text": "", "things": ["given"]})
    state = await first.state()
    assert not first.saver.is_over
    assert state.next == ("only",)
    assert (ran, state.values["things"]) == (([], ["given"]) if stop == "interrupt_before" else ([0], ["new"]))


async def test_a_run_that_is_drained_between_two_calls_goes_on_after_the_first(loop: str) -> None:
    kept, ran, control = storage(), [], RunControl()

    def node(state: State) -> Command[Any]:
        ran.append(state["number"])
        control.request_drain()
        return Command(update={"number": state["number"] + 1}, goto="only" if state["number"] < 1 else [])

    from langgraph.errors import GraphDrained

    with pytest.raises(GraphDrained):
        await Attempt(node, kept).run({"number": 0, "text": ""}, control)
    second = Attempt(node, kept, 2)
    await second.run(None)
    assert ran == [0, 1]
    assert second.seen[-1]["number"] == 2


async def test_what_has_failed_after_its_node_is_stored_last(loop: str) -> None:
    kept = storage()
    attempt = Attempt(lambda state: {"text": "done"}, kept)
    await attempt.run({"number": 1, "text": ""})
    await attempt.saver.store_last()

    found = await RunSaver(kept, Fence(0, 2), RunOptions(), own_thread=True).begin(THREAD, is_new=False, undoes=())
    assert found is not None
    assert found.checkpoint["channel_values"]["text"] == "done"


async def test_a_graph_that_is_called_twice_in_one_run_goes_on_where_it_was(loop: str) -> None:
    attempt = Attempt(lambda state: {"text": state["text"] + "x"}, storage())
    await attempt.run({"number": 1, "text": ""})
    state = await attempt.graph.ainvoke({"number": 2}, attempt.config, durability="sync")

    assert (state["number"], state["text"]) == (2, "xx")


async def test_only_a_run_of_one_node_in_a_new_thread_of_its_own_is_lean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pregel_main, "AsyncPregelLoop", AsyncPregelLoop)
    use_lean_loops()

    def seen(lean: list[bool], attempt: list[Attempt]) -> Any:
        return lambda state: lean.append(attempt[0].saver.lean_loop is not None)

    async def is_lean(number: int = 1, options: RunOptions | None = None, *, own_thread: bool = True) -> bool:
        lean, attempts = list[bool](), list[Attempt]()
        attempts.append(Attempt(seen(lean, attempts), storage(), number))
        attempts[0].saver.may_be_lean = RunSaver(
            storage(), Fence(0, 1), options or RunOptions(), own_thread=own_thread
        ).may_be_lean
        await attempts[0].run({"number": 1, "text": ""})
        return lean == [True]

    assert await is_lean()
    assert not await is_lean(own_thread=False)
    for mode in "checkpoints", "debug":
        assert not await is_lean(options=RunOptions(stream=[mode]))
    assert not await is_lean(options=RunOptions(durability="exit"))
