"""`agents run --local`: one run of a graph, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from agent_system import agent

class Draft(TypedDict, total=False):
    text: str

def first(state: Draft) -> Draft:
    return {"text": state["text"] + " first"}

def second(state: Draft) -> Draft:
    return {"text": state["text"] + " second"}

def ask(state: Draft) -> Draft:
    return {"text": interrupt({"sure": state["text"]})}

@agent("ask")
def asking() -> StateGraph[Draft]:
    return StateGraph(Draft).add_sequence([ask]).add_edge(START, "ask")

@agent("write")
def write() -> StateGraph[Draft]:
    return StateGraph(Draft).add_sequence([first, second]).add_edge(START, "first")
"""


def run_local(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    (folder / "mygraphs.py").write_text(GRAPH)
    command = [sys.executable, "-m", "core.cli", "run", "--local", name, '{"text": "a"}', "--import", "mygraphs"]
    nowhere = {**os.environ, "REDIS_URL": "unix:///tmp/no/such/socket", "REDIS_MODE": "external"}
    return subprocess.run(command, cwd=folder, env=nowhere, capture_output=True, text=True, timeout=90, check=False)


def test_a_graph_runs_here_and_tells_what_its_nodes_do(tmp_path: Path) -> None:
    done = run_local(tmp_path, "write")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"text": "a first second"}
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [list(line["data"]) for line in told if line["mode"] == "updates"] == [["first"], ["second"]]


def test_a_graph_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    done = run_local(tmp_path, "wrote")
    assert done.returncode == 78
    assert "there is no 'wrote' here, but ask, write" in done.stderr


def test_a_question_that_nobody_can_answer_ends_the_run(tmp_path: Path) -> None:
    done = run_local(tmp_path, "ask")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'the graph asks {"sure":"a"}, and nobody can answer' in done.stderr
