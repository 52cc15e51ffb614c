"""What a run that is suspended asks for, and goes on with: by LangGraph's own interrupts, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from msgspec import Raw
from pydantic import BaseModel

from core.errors import BadTask, DelegationRefused, TaskFailed
from core.tasks import Task, TaskError, TaskStatus
from core.waits import Wait, answered, opened
from tests.builders import NOW, a_task
from worker.authoring.context import ChildOutcome, Context
from worker.authoring.delegation import as_tool, delegate
from worker.authoring.questions import ask
from worker.authoring.suspension import Interrupted, Suspension, resume_of, spawned_before, suspension_of

Outcomes = Callable[[Task], ChildOutcome]


class State(TypedDict, total=False):
    done: Any
    also: Any


class Run:
    """A graph of these nodes, which run side by side, until each of its suspensions is settled."""

    def __init__(self, **nodes: Any) -> None:
        graph = StateGraph(State)
        for name, node in nodes.items():
            graph.add_node(name, node)
            graph.add_edge(START, name)
        self._compile(graph)

    @classmethod
    def of(cls, graph: StateGraph[Any]) -> Self:
        run = cls.__new__(cls)
        run._compile(graph)
        return run

    def _compile(self, graph: StateGraph[Any]) -> None:
        self._graph = graph.compile(InMemorySaver())
        self._config: Any = {"configurable": {"thread_id": "t"}}
        self.context = Context("t", spawned=3)

    async def begin(self, given: Any = None) -> Suspension | State:
        final: Any = await self._graph.ainvoke(State(done=None) if given is None else given, self._config)
        state = await self._graph.aget_state(self._config)
        asked = [Interrupted(each.id, task.name, each.value) for task in state.tasks for each in task.interrupts]
        return suspension_of(asked, self.context) if asked else final

    async def go_on(self, suspension: Suspension, outcomes: Outcomes, *answers: Any) -> Suspension | State:
        """With these answers to its questions, in order, and those outcomes of its children."""
        left = list(answers)
        waits = tuple(
            opened(wait, NOW) if wait.children else answered(opened(wait, NOW), left.pop(0), "client:me", NOW)
            for wait in suspension.waits
        )
        return await self.begin(
            Command(resume=resume_of(a_task().evolve(waits=waits), map(outcomes, suspension.children)))
        )


def completed(task: Task) -> ChildOutcome:
    return ChildOutcome(task.task_id, task.task_type, TaskStatus.COMPLETED, f"{task.payload} by {task.task_type}")


def failed(task: Task) -> ChildOutcome:
    error = TaskError(type="ValueError", message="no luck", traceback="where", attempt=2)
    return ChildOutcome(task.task_id, task.task_type, TaskStatus.FAILED, None, error)


def suspended(outcome: Suspension | State) -> Suspension:
    assert isinstance(outcome, Suspension)
    return outcome


async def test_a_node_goes_on_with_the_results_of_what_it_has_delegated_in_their_order() -> None:
    def both(_: State) -> State:
        return {"done": delegate(Task(task_type="a", payload=1), Task(task_id="own", task_type="b", payload=2))}

    async def one(_: State) -> State:
        return {"also": await delegate.aio(Task(task_type="c", payload=3, priority="high"))}

    run = Run(both=both, one=one)
    begun = suspended(await run.begin())
    state = await run.go_on(begun, completed)

    assert [wait.children for wait in begun.waits] == [("t/3", "own"), ("t/5",)]
    assert [wait.node for wait in begun.waits] == ["both", "one"]
    assert [(task.task_id, task.task_type, task.priority) for task in begun.children] == [
        ("t/3", "a", "normal"), ("own", "b", "normal"), ("t/5", "c", "high"),
    ]  # fmt: skip
    assert state == {"done": ["1 by a", "2 by b"], "also": ["3 by c"]}


async def test_a_second_attempt_delegates_the_same() -> None:
    def node(_: State) -> State:
        return {"done": delegate(Task(task_type="a", payload=[1]))}

    [first] = suspended(await Run(node=node).begin()).children
    [second] = suspended(await Run(node=node).begin()).children

    assert first.evolve(created_at=NOW) == second.evolve(created_at=NOW)


async def test_nothing_delegated_is_nothing_to_wait_for() -> None:
    assert await Run(node=lambda _: {"done": delegate()}).begin() == {"done": []}


async def test_a_delegated_task_that_fails_raises_or_is_returned_by_choice() -> None:
    def raising(_: State) -> State:
        return {"done": delegate(Task(task_type="a"))}

    returned: list[ChildOutcome] = []

    def returning(_: State) -> State:
        returned.extend(delegate(Task(task_type="a"), failures="return"))
        return {}

    run = Run(node=raising)
    with pytest.raises(TaskFailed, match=r"task 't/3' ended as failed: ValueError: no luck"):
        await run.go_on(suspended(await run.begin()), failed)
    run = Run(node=returning)
    await run.go_on(suspended(await run.begin()), failed)

    assert returned == [failed(Task(task_id="t/3", task_type="a"))]


async def test_a_refused_delegation_is_an_error_with_the_reason_or_an_outcome_of_each() -> None:
    def raising(_: State) -> State:
        return {"done": delegate(Task(task_type="a"), Task(task_type="b"))}

    returned: list[ChildOutcome] = []

    def returning(_: State) -> State:
        returned.extend(delegate(Task(task_type="a"), Task(task_type="b"), failures="return"))
        return {}

    def refused(suspension: Suspension) -> dict[str, Any]:
        return resume_of(a_task().evolve(waits=tuple(opened(w, NOW, "too deep") for w in suspension.waits)), ())

    run = Run(node=raising)
    with pytest.raises(DelegationRefused, match="too deep"):
        await run.begin(Command(resume=refused(suspended(await run.begin()))))
    run = Run(node=returning)
    await run.begin(Command(resume=refused(suspended(await run.begin()))))

    error = TaskError(type="refused", message="too deep", retryable=False)
    assert returned == [ChildOutcome("", kind, TaskStatus.FAILED, None, error) for kind in ("a", "b")]


def no_children(task: Task) -> ChildOutcome:
    raise AssertionError(task)


async def test_questions_are_asked_one_after_the_other_and_several_at_once() -> None:
    def two(_: State) -> State:
        return {"done": [interrupt({"first": 1}), ask("second", expires_s=60, default=[None])]}

    def other(_: State) -> State:
        return {"also": interrupt(None)}

    run = Run(two=two, other=other)
    first = suspended(await run.begin())
    second = suspended(await run.go_on(first, no_children, Raw(b'"a"'), Raw(b'{"b":1}')))
    state = await run.go_on(second, no_children, Raw(b"false"))

    assert sorted((wait.node, wait.asks, wait.expires_s, wait.default_json) for wait in first.waits) == [
        ("other", None, None, Raw(b"null")), ("two", {"first": 1}, None, Raw(b"null")),
    ]  # fmt: skip
    [wait] = second.waits
    assert (wait.asks, wait.expires_s, bytes(wait.default_json)) == ("second", 60, b"[null]")
    assert wait.id not in {earlier.id for earlier in first.waits}
    assert state == {"done": ["a", False], "also": {"b": 1}}


async def test_what_is_asked_may_hold_messages_and_is_refused_with_the_node_when_it_is_no_json() -> None:
    run = Run(node=lambda _: {"done": interrupt({"say": HumanMessage("hello")})})
    [wait] = suspended(await run.begin()).waits
    assert wait.asks["say"]["content"] == "hello"

    with pytest.raises(BadTask, match="the question of node 'ask' cannot be asked: result is not JSON"):
        suspension_of([Interrupted("i", "ask", object())], Context("t"))


def test_a_value_that_only_looks_marked_is_a_question() -> None:
    values: list[Any] = [{"__agent_system__": 1}, {"__agent_system__": {}, "more": 2}, [], "text", {"tasks": []}]

    asked = suspension_of([Interrupted(str(n), "", value) for n, value in enumerate(values)], Context("t"))

    assert [wait.asks for wait in asked.waits] == values


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e12])
def test_a_question_expires_within_a_time_that_can_pass(seconds: float) -> None:
    with pytest.raises(BadTask, match="expires_s is"):
        ask("?", expires_s=seconds)


def test_what_a_continuation_was_given_is_told_apart_from_what_it_was_suspended_for() -> None:
    task = a_task().evolve(waits=(opened(Wait(id="d", children=("t/1",)), NOW),))
    outcomes = [completed(Task(task_id=name, task_type="a")) for name in ("t/0", "t/1")]

    assert spawned_before(task, outcomes) == outcomes[:1]


# ---- an agent as a tool ----


class Topic(BaseModel):
    topic: str


async def told(outcome: Any, **fields: Any) -> tuple[Task, str]:
    """The task that the call of a tool becomes, and what the model is told."""
    tool = as_tool("research", "Finds sources.", **fields)
    arguments = {"topic": "bees"} if fields.get("args_schema") else {"request": "bees"}

    async def node(_: State) -> State:
        return {"done": await tool.ainvoke(arguments)}

    run = Run(node=node)
    begun = suspended(await run.begin())
    state = await run.go_on(begun, outcome)
    assert isinstance(state, dict)
    return begun.children[0], state["done"]


def with_result(result: Any) -> Outcomes:
    return lambda task: ChildOutcome(task.task_id, task.task_type, TaskStatus.COMPLETED, result)


async def test_a_tool_hands_its_request_to_an_agent_and_tells_its_last_message() -> None:
    messages = {"messages": [{"type": "human", "content": "bees"}, {"type": "ai", "content": "They fly."}]}

    task, text = await told(with_result(messages), timeout_s=30.0)

    assert (task.task_type, task.timeout_s) == ("research", 30.0)
    assert task.payload == {"messages": [{"role": "user", "content": "bees"}]}
    assert text == "They fly."


@pytest.mark.parametrize(
    ("result", "text"), [("plain", "plain"), ({"found": [1]}, '{"found":[1]}'), ({"messages": []}, '{"messages":[]}')]
)
async def test_a_tool_tells_any_other_result_as_json(result: Any, text: str) -> None:
    assert (await told(with_result(result)))[1] == text


async def test_a_tool_with_a_schema_hands_over_its_arguments() -> None:
    task, _ = await told(with_result("x"), args_schema=Topic, name="look")
    schema = as_tool("research", "Finds sources.", args_schema=Topic, name="look")

    assert task.payload == {"topic": "bees"}
    assert (schema.name, [*schema.args]) == ("look", ["topic"])


async def test_a_model_is_told_of_a_failure_in_words() -> None:
    assert (await told(failed))[1] == "research has done nothing: ValueError: no luck"


async def test_a_supervisor_has_several_agents_at_work_at_once_and_hears_of_each() -> None:
    """As an agent of LangChain calls its tools: each call is a task of the graph of its own."""
    tools = ToolNode([as_tool("research", "Finds sources."), as_tool("write", "Writes.", name="author")])
    calls = [
        {"name": "research", "args": {"request": "bees"}, "id": "1"},
        {"name": "author", "args": {"request": "a poem"}, "id": "2"},
        {"name": "research", "args": {"request": "ants"}, "id": "3"},
    ]
    graph = StateGraph(MessagesState).add_node("tools", tools)
    graph.add_conditional_edges(START, lambda _: [Send("tools", [{**call, "type": "tool_call"}]) for call in calls])
    run = Run.of(graph)

    begun = suspended(await run.begin({"messages": []}))
    state: Any = await run.go_on(begun, lambda task: failed(task) if task.task_type == "write" else completed(task))

    assert [(task.task_type, task.payload["messages"][0]["content"]) for task in begun.children] == [
        ("research", "bees"), ("write", "a poem"), ("research", "ants"),
    ]  # fmt: skip
    told_by_id = {message.tool_call_id: message.content for message in state["messages"]}
    assert told_by_id["2"] == "write has done nothing: ValueError: no luck"
    assert ["bees" in told_by_id["1"], "ants" in told_by_id["3"]] == [True, True]
