"""Who may import whom, and what the files that decide must not touch. Read from the source, nothing is imported.

In `core/` a file is a rule and a folder, a room, acts on the world; a room stands on the rooms below it. In a tier
`rules.py` and `graph.py` decide, the rest acts.
What decides gets the time, ids and seeds as arguments, so that it can be tested with tables and replayed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "coordinator", "distributor", "worker")
TIERS = ("coordinator", "distributor", "worker")
#: The files of a tier that decide; those that a tier does not have are simply not there.
DECIDING_FILES = (
    *("rules", "state", "admission", "dead_letters", "redrive", "task_life", "outcomes", "delegation"),
    *("questions", "open_questions", "threads", "schedules", "usage", "quotas", "telling", "strategies"),
    *("taking_back", "exclusions", "liveness", "graph"),
)
MAX_MODULE_LINES = 500
NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}

#: Modules that reach for the world. Ids (uuid, secrets) are made in some core files, as defaults of their fields.
WORLD = (
    *("asyncio", "ctypes", "fcntl", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "psutil", "random"),
    *("select", "shutil", "signal", "socket", "structlog", "subprocess", "tempfile", "threading", "time"),
)
#: Calls that need no import of their own, or come through one that values need as well.
WORLD_CALLS = {"open", "input", "print", "utc_now", "new_task_id"}
CLOCK_METHODS = {"now", "utcnow", "today"}

#: The rooms of core, from the ground up: each may import those before it, and knows nothing of those behind it.
FLOORS_OF_CORE = (
    "core.config", "core.failpoints", "core.machine", "core.pictures", "core.memory_backend", "core.embedded_server",
    "core.redis_backend", "core.events", "core.operations", "core.registry", "core.runtime", "core.checkpoints",
    "core.engine", "core.client", "core.launch", "core.recording", "core.local", "core.rehearsal", "core.chaos",
    "core.gateway", "core.cli",
)  # fmt: skip
FLOORS_OF_THE_WORKER = (
    "worker.authoring", "worker.projects", "worker.children", "worker.hosts", "worker.execution", "worker.agent",
)  # fmt: skip
#: The files of core that act: they open connections, read the environment and files, or wire rooms together.
ACTING_FILES = ("core/redis_client.py", "core/wiring.py")
#: The functions that import a module by its name are called here only: where names that programs use are collected,
#: where core starts tiers, and where the modules of users come in.
IMPORTING_BY_NAME = (
    "core/__init__.py", "core/checkpoints/__init__.py", "core/events/__init__.py", "core/launch/programs.py",
    "core/local/tiers.py", "core/chaos/forkserver.py", "worker/children/forkserver.py", "worker/authoring/modules.py",
    "worker/projects/code.py",
)  # fmt: skip
#: Who may open connections to the store: what acts as an agent, a client or an operator. All others are given one.
OPENING_CONNECTIONS = (
    "core/wiring.py", "core/runtime/agent.py", "core/checkpoints/opening.py", "core/client/*.py",
    "core/events/stream_session.py", "core/operations/reader.py", "core/operations/permissions.py",
    "core/recording/replay.py", "core/local/*.py", "core/rehearsal/*.py",
    "core/runtime/portal.py",  # which runs the loop of virtual time for those who wait
)  # fmt: skip
#: What workers import by its name and run, as they do with the modules of any user.
USER_CODE = (
    "core/chaos/work.py", "core/chaos/handlers.py", "core/chaos/agents.py", "core/rehearsal/asking.py",
    "core/rehearsal/own_handlers.py", "core/rehearsal/recorded.py",
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Files that match `where`, `unless` they match that, import nothing from `never`."""

    where: str
    never: tuple[str, ...]
    because: str
    unless: tuple[str, ...] = ()
    #: an import inside a function (or for type checkers only) is allowed
    on_import_only: bool = False

    def applies(self, path: str) -> bool:
        return fnmatchcase(path, self.where) and not any(fnmatchcase(path, pattern) for pattern in self.unless)


def _deciding_file_rules(tier: str) -> Iterator[Rule]:
    acting = (*FLOORS_OF_CORE, "core.redis_client", "core.wiring")
    decide = f"what is beside {tier}/agent.py decides: what it needs from the world comes in as an argument"
    for file in DECIDING_FILES:
        yield Rule(f"{tier}/{file}.py", (*WORLD, *acting, "secrets", "uuid"), decide)
    yield Rule(f"{tier}/rules.py", (f"{tier}.graph", f"{tier}.agent"), "rules know no graph and no agent")
    yield Rule(f"{tier}/graph.py", (f"{tier}.agent",), "a graph knows its rules, never its agent")


def _floor_rules(floors: tuple[str, ...]) -> Iterator[Rule]:
    for place, room in enumerate(floors):
        yield Rule(f"{room.replace('.', '/')}/*", floors[place + 1 :], f"{room} knows nothing of who stands on it")


def _tier_rules(tier: str) -> Iterator[Rule]:
    others = tuple(other for other in TIERS if other != tier)
    yield Rule(f"{tier}/*", others, "tiers speak to each other in messages only, so that each can be replaced")
    yield Rule(f"{tier}/*", ("redis",), "only core/redis_client.py and core/redis_backend/ speak to Redis")
    yield Rule(
        f"{tier}/*",
        ("langgraph",),
        f"only {tier}/graph.py needs LangGraph to start; it takes half a second (user code: inside a function)",
        # a host imports the two others when it runs a graph
        unless=(f"{tier}/graph.py", "worker/hosts/lean_loop.py", "worker/hosts/gathering_queue.py"),
        on_import_only=tier == "worker",
    )
    yield from _deciding_file_rules(tier)


RULES: tuple[Rule, ...] = (
    Rule("core/*", TIERS, "core is what the tiers stand on; it knows none of them", unless=USER_CODE),
    Rule(
        "core/*",
        ("langgraph",),
        "only core/tier_graph.py and the graphs of the tiers run LangGraph; core/checkpoints/ remembers for it",
        unless=("core/tier_graph.py", "core/checkpoints/*", *USER_CODE),
    ),
    Rule(
        "core/*",
        ("redis",),
        "only core/redis_client.py and core/redis_backend/ speak to Redis",
        unless=("core/redis_client.py", "core/redis_backend/*", "core/checkpoints/opening.py"),
    ),
    *(
        Rule(
            f"{package}/*",
            ("importlib.import_module", "runpy"),
            "a module is imported by its name only where IMPORTING_BY_NAME says, so that every other arrow can be seen",
            unless=IMPORTING_BY_NAME,
        )
        for package in PACKAGES
    ),
    *(
        Rule(
            f"{package}/*",
            ("core.redis_client.Wire", "core.redis_client.client", "core.memory_backend"),
            "what talks to the store is given a Connection (core/ports.py), so that it runs on any of them",
            unless=(*OPENING_CONNECTIONS, "core/memory_backend/*"),
        )
        for package in PACKAGES
    ),
    *_floor_rules(FLOORS_OF_CORE),
    *_floor_rules(FLOORS_OF_THE_WORKER),
    Rule(
        "core/*",
        FLOORS_OF_CORE,
        "a file of core is a rule and needs no folder that acts on the world",
        unless=("core/*/*", *ACTING_FILES, "core/__init__.py"),  # which collects the names that programs use
    ),
    Rule(
        "core/*",
        WORLD,
        "a file of core is a rule: no I/O, clock, randomness, logging or environment",
        unless=("core/*/*", *ACTING_FILES),
    ),
    *(rule for tier in TIERS for rule in _tier_rules(tier)),
)


@dataclass(frozen=True)
class Import:
    """One imported module, `a.b` for `from a import b` too, since b may be a module."""

    names: tuple[str, ...]
    line: int
    on_import: bool

    def reaches(self, module: str) -> bool:
        return any(name == module or name.startswith(module + ".") for name in self.names)


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import statement, wherever it stands."""
    lazy = set(_lazy_nodes(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield Import(tuple(alias.name for alias in node.names), node.lineno, node not in lazy)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            yield Import((base, *(f"{base}.{alias.name}" for alias in node.names)), node.lineno, node not in lazy)


def _lazy_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """What does not run when the module is imported: bodies of functions, and what is for type checkers only."""
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ast.walk(node)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join((*package, *filter(None, [node.module])))


def violations(path: Path, tree: ast.Module) -> Iterator[str]:
    """One line for each import that a rule forbids: where, what, why."""
    name = path.relative_to(ROOT).as_posix()
    for rule in (rule for rule in RULES if rule.applies(name)):
        for found in imports_of(path, tree):
            if rule.on_import_only and not found.on_import:
                continue
            for module in filter(found.reaches, rule.never):
                yield f"{name}:{found.line} imports {module}: {rule.because}"


def calls_to_the_world(path: Path, tree: ast.Module) -> Iterator[str]:
    """One line for each call in a deciding file that reads the clock, makes an id, or does I/O."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in WORLD_CALLS:
                called = name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if (
                owner in {"datetime", "date"} and name in CLOCK_METHODS
            ):
                called = f"{owner}.{name}"
            case _:
                continue
        yield f"{path.relative_to(ROOT)}:{node.lineno} calls {called}(): rules.py and graph.py get it as an argument"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    found = list(violations(path, ast.parse(path.read_bytes())))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("file", ["rules.py", "graph.py"])
def test_what_decides_in_a_tier_reads_no_clock_makes_no_ids_and_does_no_io(tier: str, file: str) -> None:
    path = ROOT / tier / file
    found = list(calls_to_the_world(path, ast.parse(path.read_bytes())))
    assert not found, "\n".join(found)


def test_no_module_is_too_long_to_hold_in_the_head() -> None:
    everything = [*sources(), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.py")]
    long = [
        f"{path.relative_to(ROOT)} has {lines} lines, over {MAX_MODULE_LINES}: more than one thing?"
        for path in everything
        if (lines := path.read_bytes().count(b"\n")) > MAX_MODULE_LINES
    ]
    assert not long, "\n".join(long)


def test_every_module_is_named_after_what_it_is_about() -> None:
    vague = [str(path.relative_to(ROOT)) for path in sources() if path.stem in NAMES_THAT_SAY_NOTHING]
    assert not vague, f"say what is in them: {vague}"


@pytest.mark.parametrize(
    ("file", "line", "module"),
    [
        ("core/tasks.py", "import worker", "worker"),
        ("core/runtime/agent_loop.py", "from redis.asyncio import Redis", "redis"),
        ("core/tasks.py", "from core import redis_backend", "core.redis_backend"),
        ("core/runtime/inbox.py", "from core.redis_client import Wire", "core.redis_client.Wire"),
        ("coordinator/agent.py", "from core.memory_backend.store import MemoryStore", "core.memory_backend"),
        ("core/cli/graph.py", "from importlib import import_module", "importlib.import_module"),
        ("core/tasks.py", "def f():\n    import time", "time"),
        ("core/agents.py", "from .runtime import agent_loop", "core.runtime"),
        ("core/events.py", "import langgraph.graph", "langgraph"),
        ("distributor/agent.py", "from coordinator.rules import next_task", "coordinator"),
        ("distributor/rules.py", "import logging", "logging"),
        ("coordinator/graph.py", "from core.redis_client import client", "core.redis_client"),
        ("worker/execution/executor.py", "from langgraph.graph import StateGraph", "langgraph"),
        ("core/redis_backend/commit.py", "from core.client.agent_client import AgentClient", "core.client"),
        ("worker/authoring/context.py", "from worker.execution import executor", "worker.execution"),
    ],
)
def test_a_forbidden_import_is_found_and_explained(file: str, line: str, module: str) -> None:
    found = list(violations(ROOT / file, ast.parse(line)))
    assert any(f"{file}:{line.count(chr(10)) + 1} imports {module}: " in text for text in found), found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/redis_client.py", "import redis.asyncio"),
        ("core/redis_backend/commit.py", "import redis, asyncio\nfrom core.tasks import Task"),
        ("core/tier_graph.py", "from langgraph.graph.state import CompiledStateGraph"),
        ("core/tasks.py", "import redislike\nfrom datetime import datetime"),
        ("worker/hosts/run.py", "def build():\n    from langgraph.graph import StateGraph"),
        ("worker/graph.py", "from langgraph.graph import StateGraph\nfrom worker.rules import step"),
        ("worker/agent.py", "from core.runtime.agent_loop import run\nimport asyncio"),
    ],
)
def test_a_lawful_import_is_let_through(file: str, line: str) -> None:
    assert list(violations(ROOT / file, ast.parse(line))) == []
