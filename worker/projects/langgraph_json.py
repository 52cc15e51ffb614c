"""What a `langgraph.json` says, as a value."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from core.json_values import Unequal, unique_members
from core.tasks import TASK_TYPE

__all__ = ["FILE_NAME", "GraphSource", "Project", "embedding_source", "project_file", "read_project", "task_type_of"]

FILE_NAME = "langgraph.json"

#: Keys that are about building an image; nothing is built here.
OF_IMAGES = frozenset({
    "$schema", "api_version", "base_image", "building_tools", "dockerfile_lines", "image_distro", "keep_pkg_tools",
    "node_version", "pip_config_file", "pip_installer", "python_version", "source",
})  # fmt: skip
USED = ("graphs", "dependencies", "env", "store")
#: What is used of a store.
OF_A_STORE = ("index", "ttl")


@dataclass(frozen=True, slots=True)
class GraphSource:
    """One of the graphs of a project, or the function that embeds for its store."""

    graph_id: str
    task_type: str  #: empty: it is no graph
    module: str  #: a path from the folder of the project, or the name of a module
    attribute: str
    description: str = ""

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"graph {self.graph_id!r}" if self.task_type else self.graph_id

    @property
    def is_file(self) -> bool:
        return "/" in self.module or self.module.endswith(".py")


@dataclass(frozen=True, slots=True)
class Project:
    """What is used of a `langgraph.json`."""

    file: Path
    graphs: tuple[GraphSource, ...]
    dependencies: tuple[str, ...]  #: folders that begin with a dot, and packages as pip has them
    env: Path | Mapping[str, str]  #: a file, or the variables themselves
    store: Mapping[str, Any]  #: how its store searches and keeps: `index` and `ttl`, as LangGraph has them
    unused: tuple[str, ...]  #: keys that are not used here

    @property
    def folder(self) -> Path:
        return self.file.parent


def project_file(path: str) -> str:
    """The `langgraph.json` at `path`, which may be its folder, as an absolute path. Raises ConfigError: there is
    none."""
    given = Path(path).expanduser().absolute()
    file = given / FILE_NAME if given.is_dir() else given
    if not file.is_file():
        where = "has no langgraph.json" if given.is_dir() else "does not exist"
        raise ConfigError(f"--langgraph {path}: {given} {where}. Name the file, or the folder that holds it.")
    return str(file)


def read_project(file: Path) -> Project:
    """What the file says. Raises ConfigError with the place and the cure."""
    said = _parsed(file)
    graphs = said.get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        close = difflib.get_close_matches("graphs", [key for key in said if key != "graphs"], n=1)
        hint = f" (is {close[0]!r} meant to be it?)" if close else ""
        raise _wrong(file, f'has no graphs{hint}: "graphs": {{"agent": "./agent.py:graph"}}')
    sources = tuple(_graph(file, graph_id, told) for graph_id, told in graphs.items())
    for source in sources:
        twins = [other.graph_id for other in sources if other.task_type == source.task_type]
        if len(twins) > 1:
            raise _wrong(
                file,
                f"has graphs {' and '.join(map(repr, twins))}, which are both task type {source.task_type!r} here."
                " Rename one of them.",
            )
    told_of_store = said.get("store") or {}
    store = _store(file, told_of_store)
    return Project(
        file=file,
        graphs=sources,
        dependencies=_dependencies(file, said.get("dependencies", [])),
        env=_env(file, said.get("env", {})),
        store=store,
        unused=(
            *(key for key in said if key not in USED and key not in OF_IMAGES),
            *(f"store.{key}" for key in told_of_store if key not in OF_A_STORE),
        ),
    )


def task_type_of(graph_id: str) -> str:
    """The task type of a graph: its id, with a `-` for what a task type cannot have."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", graph_id).strip("-")


def _parsed(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_bytes(), object_pairs_hook=unique_members)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise _wrong(file, "is no UTF-8") from None
    except Unequal as error:
        raise _wrong(file, str(error)) from None
    if not isinstance(said, dict):
        raise _wrong(file, f"holds no object, but {type(said).__name__}")
    return said


def _graph(file: Path, graph_id: str, told: Any) -> GraphSource:
    where = told.get("path", told.get("graph")) if isinstance(told, dict) else told
    description = told.get("description", "") if isinstance(told, dict) else ""
    module, colon, attribute = where.rpartition(":") if isinstance(where, str) else ("", "", "")
    if not (colon and module and attribute.isidentifier()):
        raise _wrong(file, f'graph {graph_id!r} must be "./path/to/file.py:name" or "module:name", not {where!r}')
    if module.endswith((".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx", ".jsx")):
        raise _wrong(file, f"graph {graph_id!r} is in {module}: only graphs in Python run here")
    task_type = task_type_of(graph_id)
    if not TASK_TYPE.fullmatch(task_type):
        raise _wrong(
            file, f"graph {graph_id!r} must be called by 1 to 100 characters, with a letter or digit of ASCII first"
        )
    return GraphSource(graph_id, task_type, module, attribute, str(description or ""))


def _dependencies(file: Path, told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(item, str) for item in told):
        raise _wrong(file, 'has dependencies that are no list of text, such as ["."]')
    return tuple(told)


def _env(file: Path, told: Any) -> Path | Mapping[str, str]:
    if isinstance(told, str):
        return file.parent / told
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise _wrong(file, 'has an env that is neither the name of a file nor an object of text: "env": ".env"')
    return told


def _store(file: Path, told: Any) -> Mapping[str, Any]:
    parts = {key: told.get(key) for key in OF_A_STORE} if isinstance(told, dict) else {"index": told}
    if any(part is not None and not isinstance(part, dict) for part in parts.values()):
        raise _wrong(file, 'has a store that is none: "store": {"index": {"embed": "openai:MODEL", "dims": 1536}}')
    return {key: part for key, part in parts.items() if part}


def embedding_source(project: Project) -> GraphSource | None:
    """Where the function is that embeds the texts of its store, if the project has one of its own."""
    embed = project.store.get("index", {}).get("embed")
    module, _, attribute = embed.rpartition(":") if isinstance(embed, str) else ("", "", "")
    source = GraphSource("store.index.embed", "", module, attribute)
    return source if source.is_file else None


def _wrong(file: Path, what: str) -> ConfigError:
    return ConfigError(f"{file} {what}")
