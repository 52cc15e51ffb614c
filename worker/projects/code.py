"""Loads the code of users, so that its handlers are registered: modules, files, and LangGraph projects, whose graphs
become handlers of the task types that are called as they are."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from core.errors import BadTask, ConfigError, UserError
from core.store_index import store_index
from worker.authoring.graph_factory import graph_source
from worker.authoring.handlers import DEFAULT_RETRIES, DEFAULT_TIMEOUT_S, GRAPH_SIGNATURE
from worker.authoring.modules import load_file, load_modules, raised
from worker.authoring.registry import HANDLERS, Handler
from worker.projects.embedding import Embedder
from worker.projects.langgraph_json import GraphSource, Project, embedding_source, project_file, read_project
from worker.projects.surroundings import install_command, prepare, search_path

__all__ = ["load_code"]


def load_code(names: Sequence[str]) -> list[str]:
    """Loads each of `names`: the file of a LangGraph project (`./langgraph.json`), or a module or file as
    `load_modules` has them. Loading again does nothing. Returns what is said in them and not used, for people.

    Raises ConfigError when one cannot be loaded, or when there is no handler in any of them.
    """
    projects = [read_project(Path(project_file(name))) for name in names if name.endswith(".json")]
    for project in projects:
        _load(project)
    load_modules([name for name in names if not name.endswith(".json")])
    return [f"{project.file}: {', '.join(project.unused)}" for project in projects if project.unused]


def _load(project: Project) -> None:
    """Registers the graphs of a project. Raises ConfigError with the cure."""
    prepare(project)
    store = _store(project)
    for source in project.graphs:
        graph = _found(project, source)
        what = f"{project.file}: graph {source.graph_id!r}"
        try:
            factory, takes = graph_source(what, graph)
        except BadTask as error:
            raise ConfigError(str(error)) from None
        HANDLERS.add(
            _handler(
                source.task_type, factory, what, f"{source.module}:{source.attribute}", takes=takes,
                name=source.graph_id, store=store,
            )
        )  # fmt: skip


def _handler(task_type: str, factory: Callable[..., Any], source: str, qualname: str, **more: Any) -> Handler:
    """What runs a graph of a project, or what stands where one does."""
    return Handler(
        task_type=task_type,
        function=factory,
        kind="graph",
        timeout_s=DEFAULT_TIMEOUT_S,
        max_attempts=DEFAULT_RETRIES + 1,
        memory_mb=None,
        wants_payload=GRAPH_SIGNATURE.wants_payload,
        wants_context=GRAPH_SIGNATURE.wants_context,
        payload_default=GRAPH_SIGNATURE.payload_default,
        payload_model=None,
        module=__name__,
        qualname=qualname,
        source=source,
        **{"capabilities": (), **more},
    )


def _store(project: Project) -> dict[str, Any]:
    """How the store of its graphs searches and keeps. If it has an index, its texts are embedded for others as well.
    Raises ConfigError with the cure."""
    options = dict(project.store)
    if "index" in options:
        from core.checkpoints.meaning import Meaning

        told, source = options["index"], embedding_source(project)
        options["index"] = {**told, **({"embed": _found(project, source)} if source else {})}
        try:
            Meaning(options["index"])
            index = store_index(told, [graph.task_type for graph in project.graphs])
        except ConfigError as error:
            raise ConfigError(f"{project.file}: store.{error}") from None
        # A project whose index is the same gives the same vectors, so either may embed. What a model connects by is
        # made in the process that uses it.
        HANDLERS.add(
            _handler(
                index.task_type, lambda: Embedder(Meaning(options["index"])), f"store.index {index.digest}",
                f"{project.file}: store.index", capabilities=(index.capability,), embeds=index,
            )
        )  # fmt: skip
    return options


def _found(project: Project, source: GraphSource) -> Any:
    where = f"{project.file}: {source.label}"
    try:
        module = _module(project, source)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: {_cure(project, source, error)}") from error
    if not hasattr(module, source.attribute):
        known = [name for name in vars(module) if not name.startswith("_")]
        close = difflib.get_close_matches(source.attribute, known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{where}: there is no {source.attribute!r} in {source.module}.{hint}")
    return getattr(module, source.attribute)


def _module(project: Project, source: GraphSource) -> ModuleType:
    if not source.is_file:
        return importlib.import_module(source.module)
    path = (project.folder / source.module).resolve()
    if not path.is_file():
        raise ConfigError(f"{project.file}: {source.label}: there is no file {path}")
    if name := _importable_name(project, path):
        module = importlib.import_module(name)
        if Path(getattr(module, "__file__", None) or "").resolve() == path:
            return module
    # Its own name is not one, or is taken by another project: it gets one that only this file has.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    return sys.modules.get(name) or load_file(path, name)


def _importable_name(project: Project, path: Path) -> str:
    """The name by which the project's own modules import a file; empty if they cannot."""
    for folder in reversed(search_path(project)):
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            if all(part.isidentifier() for part in parts):
                return ".".join(parts).removesuffix(".__init__")
    return ""


def _cure(project: Project, source: GraphSource, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and missing == source.module.partition(".")[0]:
        return (
            f"there is no module {missing!r}. Name the file instead (./path/to/file.py:{source.attribute}), or list the"
            " folder that it lies in as a dependency."
        )
    if missing:
        return f"it needs the module {missing!r}. Install it: {install_command(project, missing)}"
    return f"importing {source.module} {raised(error)}"
