"""The agents. The supervisor is a graph that leaves the work to others and holds no process while they do it; it stops
for a person, and goes on where it was, whichever process is killed meanwhile.

    plan ─▶ research ─▶ criticize ─▶ approve ─▶ write
                ▲            │
                └─ sent back ┘
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TypedDict

from langchain.agents import create_agent
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field

from agent_system import Task, agent, delegate
from examples.offline_model import chat_model
from examples.research_team.documents import passages_about
from examples.research_team.journal import note

#: Seconds that a search takes, as one over a network would.
SEARCH_S = 1.0
RESEARCHERS = 3


class Plan(BaseModel):
    """How a question is divided among researchers."""

    topics: list[str] = Field(description="what each of them looks for")


class Work(TypedDict, total=False):
    question: str
    topics: list[str]  #: what is to be looked for next
    findings: dict[str, str]  #: by topic
    rounds: int
    approved: bool
    report: str


async def plan(state: Work) -> Work:
    note("begins", "plan")
    made = Plan.model_validate(await chat_model().with_structured_output(Plan).ainvoke(state["question"]))
    note("done", "plan")
    return {"topics": made.topics[:RESEARCHERS], "findings": {}, "rounds": 0}


async def research(state: Work) -> Work:
    how = "Search the documents" if not state["rounds"] else "Read further passages"
    asked = [{"messages": [{"role": "user", "content": f"{how}: {topic}"}]} for topic in state["topics"]]
    results = await delegate.aio(*(Task(task_type="researcher", payload=payload) for payload in asked))
    found = {topic: result["messages"][-1]["content"] for topic, result in zip(state["topics"], results, strict=True)}
    note("done", f"research {state['rounds'] + 1}")
    return {"findings": state["findings"] | found, "rounds": state["rounds"] + 1}


async def criticize(state: Work) -> Command[Literal["research", "approve"]]:
    [verdict] = await delegate.aio(Task(task_type="critic", payload={"findings": state["findings"]}))
    note("done", f"criticize {state['rounds']}")
    if verdict["weak"] and state["rounds"] == 1:
        return Command(goto="research", update={"topics": verdict["weak"]})
    return Command(goto="approve")


async def approve(state: Work) -> Work:
    answer = interrupt({"question": "May this be written?", "findings": state["findings"]})
    note("done", "approve")
    return {"approved": answer is True or str(answer).lower() in ("y", "yes")}


async def write(state: Work) -> Work:
    [written] = await delegate.aio(Task(task_type="writer", payload=dict(state)))
    note("done", "write")
    return {"report": written["report"]}


@agent("research_team", timeout=600)
def supervisor() -> Any:
    graph: Any = StateGraph(Work)
    for node in (plan, research, criticize, approve, write):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "research")
    graph.add_edge("research", "criticize")
    graph.add_conditional_edges("approve", lambda state: "write" if state["approved"] else END, ["write", END])
    return graph


async def search_documents(topic: str) -> str:
    """Searches the documents for the passage that is most about a topic."""
    return await _searched(topic, 1)


async def read_further_passages(topic: str) -> str:
    """Reads further passages about a topic."""
    return await _searched(topic, 2)


async def _searched(topic: str, count: int) -> str:
    note("begins", f"search for{topic.rpartition(':')[2]}")
    await asyncio.sleep(SEARCH_S)
    found = " ".join(passages_about(topic.rpartition(":")[2], count))
    note("done", f"search for{topic.rpartition(':')[2]}")
    return found


agent("researcher")(create_agent(chat_model(), tools=[search_documents, read_further_passages]))


class Judged(TypedDict, total=False):
    findings: dict[str, str]
    weak: list[str]


async def judge(state: Judged) -> Judged:
    """The thinnest finding is weak."""
    findings = state["findings"]
    note("done", "judge")
    return {"weak": sorted(findings, key=lambda topic: len(findings[topic]))[:1]}


@agent("critic")
def critic() -> StateGraph[Judged]:
    return StateGraph(Judged).add_node("judge", judge).add_edge(START, "judge")


async def draft(state: Work) -> Work:
    parts = [f"## {topic}\n\n{finding}" for topic, finding in state["findings"].items()]
    note("done", "draft")
    return {"report": "\n\n".join([f"# {state['question']}", *parts])}


@agent("writer")
def writer() -> StateGraph[Work]:
    return StateGraph(Work).add_node("draft", draft).add_edge(START, "draft")
