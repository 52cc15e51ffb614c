"""A LangGraph project runs as it is; what is wrong with one is said with the place and the cure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import worker.projects.code
from core.errors import BadTask, ConfigError
from core.store_index import Embedded, StoreIndex
from worker.authoring.registry import Handlers
from worker.projects.code import load_code
from worker.projects.langgraph_json import project_file, task_type_of

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class Said(TypedDict, total=False):
    said: str

graph = StateGraph(Said)
graph.add_node("speak", lambda state: {"said": "WORD"})
graph.add_edge(START, "speak")

def make(config: dict):
    return graph

number = 3
"""

Made = Callable[..., str]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    fresh, before, modules = Handlers(), list(sys.path), set(sys.modules)
    monkeypatch.setattr(worker.projects.code, "HANDLERS", fresh)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield fresh
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def made(tmp_path: Path, registry: Handlers) -> Made:
    """Writes a project with these files, and returns the path of its langgraph.json."""

    def make(said: Any, files: dict[str, str] | None = None, folder: str = "project") -> str:
        place = tmp_path / folder
        for name, text in {"agent.py": GRAPH, **(files or {})}.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        (place / "langgraph.json").write_text(said if isinstance(said, str) else json.dumps(said))
        return str(place / "langgraph.json")

    return make


async def said_by(registry: Handlers, task_type: str) -> Any:
    from worker.authoring.graph_factory import Graphs

    async with Graphs().built(registry.get(task_type), {}) as graph:
        return (await graph.ainvoke({}))["said"]


async def test_each_graph_is_a_task_type_called_as_it_is(made: Made, registry: Handlers) -> None:
    path = made({
        "dependencies": ["."],
        "graphs": {
            "agent": "./agent.py:graph",
            "My Agent": {"path": "./agent.py:make", "description": "what it does"},
            "old/one": {"graph": "agent:graph"},
        },
    })  # fmt: skip
    assert load_code([path]) == []
    assert load_code([path]) == []
    assert registry.names() == ["My-Agent", "agent", "old-one"]
    assert registry.get("My-Agent").name == "My Agent"
    assert registry.get("agent").hosted
    assert await said_by(registry, "My-Agent") == "WORD"


async def test_modules_are_found_as_they_would_be_once_installed(made: Made, registry: Handlers) -> None:
    files = {
        "pyproject.toml": "",
        "src/my_agent/__init__.py": "",
        "src/my_agent/words.py": "word = 'relative'",
        "src/my_agent/graph.py": GRAPH.replace('"WORD"', "word") + "\nfrom .words import word\nimport my_agent.words",
        "flat/tools.py": "word = 'flat'",
        "flat/my graph.py": GRAPH.replace('"WORD"', "word") + "\nfrom tools import word",
    }
    load_code([
        made(
            {
                "dependencies": [".", "./flat"],
                "graphs": {"src": "./src/my_agent/graph.py:graph", "flat": "./flat/my graph.py:graph"},
            },
            files,
        )
    ])  # fmt: skip
    assert [await said_by(registry, name) for name in ("src", "flat")] == ["relative", "flat"]


async def test_files_of_two_projects_may_have_the_same_name(made: Made, registry: Handlers) -> None:
    def project(name: str) -> str:
        said = {"dependencies": ["."], "graphs": {name: "./agent.py:graph"}}
        return made(said, {"agent.py": GRAPH.replace("WORD", name)}, name)

    paths = [project("one"), project("two")]
    load_code(paths)
    assert [await said_by(registry, name) for name in ("one", "two")] == ["one", "two"]


def test_variables_come_from_a_file_or_the_project_and_never_over_those_of_the_environment(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ["MADE_HERE"] = "real"
    graphs = {"agent": "./agent.py:graph"}
    load_code([made({"graphs": graphs, "env": ".env"}, {".env": "MADE_HERE=file\nMADE_THERE='a b'\nEMPTY\n"})])
    assert (os.environ["MADE_HERE"], os.environ["MADE_THERE"]) == ("real", "a b")
    load_code([made({"graphs": graphs, "env": {"MADE_THERE": "again", "MADE_LAST": "x"}})])
    assert (os.environ["MADE_THERE"], os.environ["MADE_LAST"]) == ("a b", "x")


def test_keys_that_are_not_used_are_named(made: Made) -> None:
    path = made({"graphs": {"agent": "./agent.py:graph"}, "http": {}, "auth": {}, "python_version": "3.11"})
    assert load_code([path]) == [f"{path}: http, auth"]


def test_its_store_searches_and_keeps_as_it_says(made: Made, registry: Handlers) -> None:
    index = {"embed": "./agent.py:make", "dims": 3, "fields": ["text"]}
    store = {"index": index, "ttl": {"default_ttl": 60}, "path": "./store.py:store"}
    path = made({"graphs": {"agent": "./agent.py:graph", "other": "./agent.py:make"}, "store": store})
    assert load_code([path]) == [f"{path}: store.path"]
    assert load_code([path]) == [f"{path}: store.path"]
    told = registry.get("agent").store
    assert told is registry.get("other").store
    assert told is not None
    assert told["index"] == index | {"embed": registry.get("other").function}
    assert told["ttl"] == {"default_ttl": 60}
    assert [handler.task_type for handler in registry if handler.is_graph] == ["agent", "other"]


async def test_its_texts_are_embedded_for_those_that_do_not_load_it(made: Made, registry: Handlers) -> None:
    code = """
def embed(texts):
    if not all(texts):
        raise ValueError("an empty text " + "x" * 1000)
    return [[len(text), 0.0] for text in texts]
"""
    store = {"index": {"embed": "./embedding.py:embed", "dims": 2, "fields": ["text"]}}
    load_code([made({"graphs": {"agent": "./agent.py:graph"}, "store": store}, {"embedding.py": code})])
    [handler] = [one for one in registry if one.embeds]
    index = handler.embeds
    assert index == StoreIndex(embed="./embedding.py:embed", dims=2, fields=("text",), graphs=("agent",))
    assert (handler.task_type, handler.capabilities) == (index.task_type, (index.capability,))
    assert handler.hosted

    embedder = handler.function()
    given = await embedder.ainvoke({"texts": ["a", "abc"]})
    assert msgspec.convert(given, Embedded).unpacked(2, 2) == [[1, 0], [1, 0]]
    assert msgspec.convert(await embedder.ainvoke({"query": "a"}), Embedded).unpacked(1, 2) == [[1, 0]]
    failed = msgspec.convert(await embedder.ainvoke({"texts": ["a", ""]}), Embedded)
    assert failed.error.startswith("ValueError: an empty text x")
    assert len(failed.error) == 500
    with pytest.raises(BadTask, match="these are no texts to embed"):
        await embedder.ainvoke({"words": []})


@pytest.mark.parametrize(
    ("graph_id", "task_type"),
    [("agent", "agent"), ("My  Agent!", "My-Agent"), ("a/b:c.d_e", "a-b:c.d_e"), ("é", ""), ("x é y", "x-y")],
)
def test_a_task_type_is_the_id_of_the_graph_as_far_as_it_can_be(graph_id: str, task_type: str) -> None:
    assert task_type_of(graph_id) == task_type


OF_AGENT = "{file}: graph 'a': "


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('{"graphs":\n {,}}', "{file}:2:3: no JSON: Expecting property name enclosed in double quotes"),
        ("[]", "{file} holds no object, but list"),
        ('{"graphs": {"a": "./agent.py:graph", "a": "./agent.py:make"}}', "{file} has the key 'a' twice in one object"),
        ({}, '{file} has no graphs: "graphs": {"agent": "./agent.py:graph"}'),
        ({"graph": {}}, "{file} has no graphs (is 'graph' meant to be it?)"),
        ({"graphs": []}, "{file} has no graphs"),
        (
            {"graphs": {"a": "./agent.py"}},
            """{file} graph 'a' must be "./path/to/file.py:name" or "module:name", not './agent.py'""",
        ),
        ({"graphs": {"a": {"description": "x"}}}, "{file} graph 'a' must be"),
        ({"graphs": {"a": "./agent.ts:graph"}}, "{file} graph 'a' is in ./agent.ts: only graphs in Python run here"),
        ({"graphs": {"é": "./agent.py:graph"}}, "{file} graph 'é' must be called by 1 to 100 characters"),
        (
            {"graphs": {"a b": "./agent.py:graph", "a/b": "./agent.py:make"}},
            "{file} has graphs 'a b' and 'a/b', which are both task type 'a-b' here. Rename one of them.",
        ),
        ({"graphs": {"a": "./agent.py:graph"}, "dependencies": "."}, "{file} has dependencies that are no list"),
        (
            {"graphs": {"a": "./agent.py:graph"}, "dependencies": ["./none"]},
            "{file} depends on the folder {folder}/none, which does not exist",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "dependencies": ["no package!"]},
            "{file}: dependency 'no package!' is neither a folder nor a package",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "dependencies": ["nowhere-made", "langgraph<1", "x; os_name=='x'"]},
            "{file} needs packages that are not installed here: nowhere-made; langgraph<1 (here is ",
        ),
        ({"graphs": {"a": "./agent.py:graph"}, "env": 3}, "{file} has an env that is neither"),
        (
            {"graphs": {"a": "./agent.py:graph"}, "env": ".env.local"},
            "{file} names the file {folder}/.env.local for its environment, and there is none.",
        ),
        ({"graphs": {"a": "./agent.py:graph"}, "store": {"index": []}}, "{file} has a store that is none"),
        (
            {"graphs": {"a": "./agent.py:graph"}, "store": {"index": {"embed": "./agent.py:make"}}},
            "{file}: store.index: give as `dims` how many numbers",
        ),
        (
            {
                "graphs": {"a": "./agent.py:graph"},
                "store": {"index": {"embed": "./agent.py:make", "dims": 3, "fields": "text"}},
            },
            "{file}: store.index: fields: expected array, got str",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "store": {"index": {"embed": "./none.py:embed", "dims": 3}}},
            "{file}: store.index.embed: there is no file {folder}/none.py",
        ),
        ({"graphs": {"a": "./none.py:graph"}}, OF_AGENT + "there is no file {folder}/none.py"),
        ({"graphs": {"a": "made_nowhere.x:graph"}}, OF_AGENT + "there is no module 'made_nowhere'. Name the file"),
        ({"graphs": {"a": "./agent.py:graphs"}}, OF_AGENT + "there is no 'graphs' in ./agent.py. Did you mean graph?"),
        ({"graphs": {"a": "./agent.py:number"}}, "{file}: graph 'a' is a int. It must be a graph"),
        ({"graphs": {"a": "./agent.py:START"}}, "{file}: graph 'a' is a str. It must be a graph"),
        ({"graphs": {"a": "./fails.py:graph"}}, OF_AGENT + "importing ./fails.py raised ValueError: on purpose ("),
        ({"graphs": {"a": "./exits.py:graph"}}, OF_AGENT + "importing ./exits.py raised SystemExit: 3"),
        (
            {"graphs": {"a": "./needs.py:graph"}, "dependencies": ["."]},
            OF_AGENT + "it needs the module 'made_nowhere'. Install it: {python} -m pip install -r {folder}/req",
        ),
        (
            {"graphs": {"a": "./needs.py:graph"}},
            OF_AGENT + "it needs the module 'made_nowhere'. Install it: {python} -m pip install made-nowhere",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_project_is_said_with_the_place_and_the_cure(made: Made, said: Any, words: str) -> None:
    files = {
        "fails.py": "raise ValueError('on purpose')",
        "exits.py": "raise SystemExit(3)",
        "needs.py": "import made_nowhere.graph",
        "requirements.txt": "",
    }
    file = made(said, files)
    with pytest.raises(ConfigError) as refused:
        load_code([file])
    for name, value in (("file", file), ("folder", str(Path(file).parent)), ("python", sys.executable)):
        words = words.replace(f"{{{name}}}", value)
    assert str(refused.value).startswith(words)


def test_what_is_not_installed_is_installed_by_one_command(made: Made) -> None:
    file = made({"graphs": {"a": "./agent.py:graph"}, "dependencies": ["nowhere-made>=2", "langgraph<1"]})
    with pytest.raises(ConfigError) as refused:
        load_code([file])
    assert str(refused.value).endswith(f"Install them: {sys.executable} -m pip install 'nowhere-made>=2' 'langgraph<1'")


def test_a_project_that_is_not_there_is_named(made: Made, tmp_path: Path) -> None:
    file = made({})
    assert project_file(str(tmp_path / "project")) == project_file(file) == file
    with pytest.raises(ConfigError, match=r"none does not exist\. Name the file"):
        project_file(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"has no langgraph\.json"):
        project_file(str(tmp_path))
