"""The agent that reviews one chunk: a LangGraph graph with two loops.

    load ─▶ parse ─▶ measure ─▶ judge ─▶ report
      ▲                         │  ▲ │
      └─────── next files ──────┘  │ └─▶ examine ─┐
                                   └──────────────┘ one too complex function after the other

It takes a few files at a time, since syntax trees are a hundred times as large as their source. Only totals, checksums
and hot spots are kept.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from core.errors import BadTask
from examples.census.hotspot import Hotspot, examine
from examples.census.mccabe import Scored
from examples.census.measure import COMPLEX_ABOVE, Totals, measure, parse
from examples.census.merge import HOTSPOTS, worst
from examples.census.tree import SourceFile, source_files, to_bytes, to_text

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

__all__ = ["Review", "ReviewRequest", "ReviewResult", "review_graph"]

#: Files are loaded until their source has this many bytes.
BITE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded file."""

    path: bytes
    source: bytes
    tree: ast.Module | None = None


class Found(NamedTuple):
    """A function, and its file."""

    path: bytes
    function: Scored


class ReviewRequest(TypedDict):
    """The input: the fields of a `plan.Chunk`."""

    root: str
    first: str
    last: str
    files: int


class ReviewResult(TypedDict):
    """The output: the fields of a `merge.ChunkResult`."""

    totals: dict[str, Any]
    checksums: list[tuple[str, str]]
    hotspots: list[dict[str, Any]]


class Review(ReviewRequest, ReviewResult, total=False):
    """The whole state. Fields that are not in the result stay in the graph."""

    waiting: list[SourceFile]  #: files that are not loaded yet
    hand: list[Loaded]  #: the loaded files
    measured: list[Found]  #: their functions, which are not judged yet
    suspects: list[Found]  #: too complex functions that are not examined yet, the worst first


def review_graph(note: Callable[[float, str], None] = lambda fraction, text: None) -> StateGraph[Any, Any, Any, Any]:
    """The graph, not compiled. `note` is called with its progress: a fraction from 0 to 1, and a sentence."""
    from langgraph.graph import END, START, StateGraph

    def judge_aloud(state: Review) -> dict[str, Any]:
        done = len(state["checksums"])
        note(done / state["files"], f"{done} of {state['files']} files")
        return judge(state)

    graph = StateGraph(Review, input_schema=ReviewRequest, output_schema=ReviewResult)
    graph.add_node("load", load)
    graph.add_node("parse", parse_hand)
    graph.add_node("measure", measure_hand)
    graph.add_node("judge", judge_aloud)
    graph.add_node("examine", examine_one)
    graph.add_node("report", report)
    graph.add_edge(START, "load")
    graph.add_edge("load", "parse")
    graph.add_edge("parse", "measure")
    graph.add_edge("measure", "judge")
    graph.add_conditional_edges("judge", after_judging, ["examine", "load", "report"])
    graph.add_edge("examine", "judge")
    graph.add_edge("report", END)
    return graph


def load(state: Review) -> dict[str, Any]:
    """Loads the next files. The first time it also finds the files of the chunk."""
    waiting = state["waiting"] if "waiting" in state else _files_of(state)
    hand: list[Loaded] = []
    size = 0
    while waiting[len(hand) :] and size < BITE_BYTES:
        path = waiting[len(hand)].path
        with open(os.path.join(to_bytes(state["root"]), path), "rb") as file:
            hand.append(Loaded(path, file.read()))
        size += len(hand[-1].source)
    return {"hand": hand, "waiting": waiting[len(hand) :]}


def _files_of(state: Review) -> list[SourceFile]:
    files = source_files(state["root"], state["first"], state["last"])
    if len(files) != state["files"]:
        raise BadTask(
            f"{state['files']} files were planned from {state['first']!r} to {state['last']!r}, {len(files)} found now."
            " Run the census on a tree that nobody changes meanwhile."
        )
    return files


def parse_hand(state: Review) -> dict[str, Any]:
    """Parses the loaded files."""
    return {"hand": [replace(file, tree=parse(file.source)) for file in state["hand"]]}


def measure_hand(state: Review) -> dict[str, Any]:
    """Measures the loaded files, and drops their sources and syntax trees."""
    totals = Totals.model_validate(state.get("totals", {}))
    checksums = list(state.get("checksums", ()))
    measured: list[Found] = []
    for file in state["hand"]:
        counted = measure(file.path, file.source, file.tree)
        totals += counted.totals
        checksums.append((counted.sha256, to_text(file.path)))
        measured += [Found(file.path, function) for function in counted.functions]
    return {"totals": totals.model_dump(), "checksums": checksums, "measured": measured, "hand": []}


def judge(state: Review) -> dict[str, Any]:
    """Selects the functions to examine: the most complex ones, as many as are reported."""
    too_complex = [found for found in state["measured"] if found.function.complexity > COMPLEX_ABOVE]
    suspects = sorted(state.get("suspects", []) + too_complex, key=lambda found: -found.function.complexity)
    return {"measured": [], "suspects": suspects[:HOTSPOTS]}


def after_judging(state: Review) -> Literal["examine", "load", "report"]:
    """The next node: `examine` while there are suspects, then `load` while there are files, then `report`."""
    if state["suspects"]:
        return "examine"
    return "load" if state["waiting"] else "report"


def examine_one(state: Review) -> dict[str, Any]:
    """Examines the worst suspect."""
    worst_one, *others = state["suspects"]
    spot = examine(worst_one.path.decode(errors="backslashreplace"), worst_one.function)
    return {"hotspots": [*state.get("hotspots", ()), spot.model_dump()], "suspects": others}


def report(state: Review) -> dict[str, Any]:
    """Reports the worst hot spots of the chunk, the worst first."""
    found = worst(Hotspot.model_validate(spot) for spot in state.get("hotspots", ()))
    return {"hotspots": [spot.model_dump() for spot in found]}
