"""Judges the runs of graphs: their states, nodes, answers and streams.

* A completed run has each of its nodes once, the one answer that a client was told is taken, and the results of its
  children.
* A node that has finished does not run again. When a node begins, all before it are stored. So no later attempt begins
  before it, and no attempt begins a node twice: a node runs again at most once for each attempt that was lost in it.
* Each checkpoint was written by the attempt that had the thread.
* A reader of a run was told each chunk that was written, in order, and its end once.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from core.chaos.history import History
from core.chaos.ledger import Entry
from core.chaos.run_history import RunHistory

__all__ = ["NODES", "AgentCounts", "agent_counts", "wrong_runs"]

#: The nodes of each graph in `core.chaos.agents`, in order, and the number of tasks that it delegates.
NODES = {
    "chaos.steps": ("one", "two", "three"),
    "chaos.asks": ("draft", "ask", "send"),
    "chaos.leads": ("plan", "lead", "write"),
}
CHILDREN = {"chaos.leads": 2}

ByKind = Mapping[str, Sequence[Entry]]


@dataclass(frozen=True, slots=True)
class AgentCounts:
    """What was judged of runs of graphs."""

    runs: int = 0  #: that have completed
    nodes: int = 0  #: how often a node has begun
    answers: int = 0
    checkpoints: int = 0
    chunks: int = 0  #: that readers were told


def agent_counts(history: History, runs: RunHistory, of_kind: ByKind) -> AgentCounts:
    return AgentCounts(
        runs=sum(1 for _ in _completed(history)),
        nodes=len(of_kind.get("node", ())),
        answers=len(of_kind.get("answered", ())),
        checkpoints=runs.checkpoints,
        chunks=sum(len(entry.facts["chunks"]) for entry in of_kind.get("streamed", ())),
    )


def wrong_runs(history: History, runs: RunHistory, of_kind: ByKind) -> Iterator[str]:
    """What is wrong with runs of graphs, in words."""
    yield from runs.broken
    nodes, answers = _by_task(of_kind.get("node", ())), _by_task(of_kind.get("answered", ()))
    for task_id, task_type, result in _completed(history):
        yield from _wrong_state(task_id, task_type, result, nodes[task_id])
        yield from _wrong_answers(task_id, result, answers[task_id])
        yield from _wrong_parts(task_id, task_type, result, history)
        yield from _repeated(task_id, NODES[task_type], nodes[task_id])
    told = _by_task(of_kind.get("streamed", ()))
    for entry in of_kind.get("accepted", ()):
        record = history.records.get(entry.task_id, {})
        if record.get("task_type") in NODES:
            yield from _wrong_stream(entry.task_id, record, told[entry.task_id], runs.chunks.get(entry.task_id, []))


def _completed(history: History) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The completed runs: id, type and final state."""
    for task_id, record in history.records.items():
        if record.get("task_type") in NODES and record.get("status") == "completed":
            yield task_id, record["task_type"], record["result"]


def _by_task(entries: Sequence[Entry]) -> defaultdict[str, list[Entry]]:
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.task_id].append(entry)
    return found


def _wrong_state(task_id: str, task_type: str, result: dict[str, Any], begun: Sequence[Entry]) -> Iterator[str]:
    ran = [tuple(node) for node in result["nodes"]]
    if (names := tuple(name for name, _ in ran)) != NODES[task_type]:
        yield f"the state of {task_id} has the nodes {', '.join(names)}"
    known = {(entry.facts["node"], entry.facts["execution"]) for entry in begun}
    for name, execution in ran:
        if (name, execution) not in known:
            yield f"the state of {task_id} names execution {execution} of {name}, which the ledger does not know"


def _wrong_answers(task_id: str, result: dict[str, Any], taken: Sequence[Entry]) -> Iterator[str]:
    questions = Counter(entry.facts["question"] for entry in taken)
    for question, count in questions.items():
        if count > 1:
            yield f"question {question} of {task_id} took {count} answers"
    given, applied = [entry.facts["answer"] for entry in taken], result.get("answers", [])
    if sorted(given) != sorted(applied) or ("ask" in dict(result["nodes"])) != bool(applied):
        yield f"{task_id} was answered {given} and went on with {applied}"


def _wrong_parts(task_id: str, task_type: str, result: dict[str, Any], history: History) -> Iterator[str]:
    children = [f"{task_id}/{number}" for number in range(CHILDREN.get(task_type, 0))]
    if result.get("parts", []) != [history.records.get(child, {}).get("result") for child in children]:
        yield f"{task_id} went on with other results than those of its children"


def _repeated(task_id: str, order: Sequence[str], begun: Sequence[Entry]) -> Iterator[str]:
    """Nodes that ran again although they had finished. The executions of an attempt are told apart by their process,
    since a run goes on in another one, in the same attempt, when its own dies."""
    reached = 0
    in_order = sorted(begun, key=lambda entry: (entry.facts["attempt"], entry.at_ns))
    for (attempt, _), execution in groupby(in_order, lambda entry: (entry.facts["attempt"], entry.pid)):
        places = [order.index(entry.facts["node"]) for entry in execution]
        if places[0] < reached or places != sorted(set(places)):
            again = ", ".join(order[place] for place in places)
            yield f"{task_id} had reached {order[reached]}, and attempt {attempt} ran {again}"
        reached = max(reached, *places)


def _wrong_stream(
    task_id: str, record: Mapping[str, Any], told: Sequence[Entry], written: Sequence[tuple[str, int]]
) -> Iterator[str]:
    ends = [end for entry in told for end in entry.facts["ends"]]
    if ends != [record.get("status")]:
        yield f"the stream of {task_id} told {len(ends)} ends: {', '.join(ends)}"
    heard = [chunk for entry in told for chunk in entry.facts["chunks"]]
    # An attempt that was replaced may wake up and tell something, which is passed over; or when the run has ended.
    reached = itertools.accumulate((attempt for _, attempt in written), max)
    written = [each for each, latest in zip(written, reached, strict=True) if each[1] == latest]
    missed = [chunk for chunk, attempt in written[len(heard) :] if attempt == record.get("attempt")]
    if heard != [chunk for chunk, _ in written[: len(heard)]] or missed:
        yield f"the stream of {task_id} told {len(heard)} chunks, which are not the {len(written)} that were written"
