"""Registering functions and graphs, and reading their signatures."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import worker.authoring.handlers
import worker.authoring.modules
from core.errors import BadTask, ConfigError
from worker.authoring.context import Context
from worker.authoring.handlers import Handler, Handlers, agent, load_modules, task


class Text(BaseModel):
    text: str
    words: list[int] = []


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    """A registry of its own for each test, and whatever it imported forgotten after it."""
    fresh = Handlers()
    monkeypatch.setattr(worker.authoring.handlers, "HANDLERS", fresh)
    monkeypatch.setattr(worker.authoring.modules, "HANDLERS", fresh)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield fresh
    for name in set(sys.modules) - before:
        if name.startswith("made_"):
            del sys.modules[name]


# registration


def test_a_registered_function_stays_what_it_was(registry: Handlers) -> None:
    @task("double", timeout=30, retries=2, memory_mb=512)
    def double(payload: int) -> int:
        return payload * 2

    assert double(4) == 8
    handler = registry.get("double")
    assert (handler.kind, handler.timeout_s, handler.max_attempts, handler.memory_mb) == ("sync", 30.0, 3, 512)
    assert handler.function is double


def test_the_kind_follows_the_function(registry: Handlers) -> None:
    @task("one")
    async def one() -> None: ...

    @task("two")
    def two() -> None: ...

    @agent("three")
    def three() -> object: ...

    assert [registry.get(name).kind for name in ("one", "two", "three")] == ["async", "sync", "graph"]
    assert registry.names() == ["one", "three", "two"]


@pytest.mark.parametrize("method", ["compile", "ainvoke"])
def test_a_graph_itself_can_be_registered(registry: Handlers, method: str) -> None:
    graph = type("Graph", (), {method: None})()

    assert agent("review")(graph) is graph
    assert registry.get("review").function() is graph


def test_two_functions_of_one_task_type_are_refused_naming_both_places(registry: Handlers) -> None:
    @task("same")
    def first() -> None: ...

    with pytest.raises(BadTask, match=r"first \(.*test_handlers.py:\d+\) and .*second \(.*test_handlers.py:\d+\)"):

        @task("same")
        def second() -> None: ...


def test_the_same_function_imported_again_replaces_itself(registry: Handlers) -> None:
    for _ in range(2):

        @task("same")
        def again() -> None: ...

    assert registry.get("same").function is again


def test_an_unknown_task_type_is_answered_with_the_known_ones_and_the_cure(registry: Handlers) -> None:
    @task("count")
    def count() -> None: ...

    with pytest.raises(BadTask, match=r"'cuont' here \(known: count\).*--import MODULE"):
        registry.get("cuont")


def test_arguments_that_cannot_work_are_refused() -> None:
    def nothing() -> None: ...

    with pytest.raises(BadTask, match="task type"):
        task("no spaces")(nothing)
    with pytest.raises(BadTask, match="timeout is in seconds"):
        task("count", timeout=0)(nothing)
    with pytest.raises(BadTask, match="retries"):
        task("count", retries=-1)(nothing)
    with pytest.raises(BadTask, match="memory_mb is in MiB"):
        task("count", memory_mb=0)(nothing)
    with pytest.raises(BadTask, match="generator"):

        @task("count")
        def produce() -> Iterator[int]:
            yield 1


def test_memory_cannot_be_limited_for_what_runs_in_the_worker_itself() -> None:
    async def nothing() -> None: ...

    with pytest.raises(BadTask, match="Make it a plain function"):
        task("count", memory_mb=64)(nothing)


def test_an_agent_must_be_a_graph_or_a_function_that_a_run_can_call() -> None:
    with pytest.raises(BadTask, match=r"@agent\('review'\) needs model"):

        @agent("review")
        def build(model: str) -> object: ...

    with pytest.raises(BadTask, match=r"@agent\('review'\) is a int"):
        agent("review")(3)


# signatures


def _payload(payload: Any) -> None: ...
def _payload_context(anything: Any, ctx: Any) -> None: ...
def _annotated_context(anything: Any, c: Context) -> None: ...
def _context(context: Any) -> None: ...
def _nothing() -> None: ...
def _defaults(payload: Any = None, *, verbose: bool = False) -> None: ...
def _default(data: Any = None) -> None: ...
def _both_default(data: Any = None, ctx: Any = None) -> None: ...
def _own_default(data: Any, retries: int = 3, *rest: Any, **more: Any) -> None: ...
def _only_own(*, client: Any = None) -> None: ...


@functools.wraps(_payload_context)
def _wrapped(*args: Any, **kwargs: Any) -> None: ...


class _Called:
    def __call__(self, data: Any = None) -> None: ...
    def method(self, data: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (_payload, ("P",)),
        (_payload_context, ("P", "C")),
        (_annotated_context, ("P", "C")),
        (_context, ("C",)),
        (_nothing, ()),
        (_defaults, ("P",)),
        (_default, ("P",)),
        (_both_default, ("P", "C")),
        (_own_default, ("P",)),
        (_only_own, ()),
        (_wrapped, ("P", "C")),
        (_Called(), ("P",)),
        (_Called().method, ("P",)),
        (staticmethod(_payload), ("P",)),
        (functools.partial(_own_default, retries=1), ("P",)),
    ],
)
def test_a_handler_gets_the_arguments_it_names(registry: Handlers, function: Any, arguments: tuple[str, ...]) -> None:
    task("shape")(function)

    assert registry.get("shape").arguments("P", "C") == arguments


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("a, b", "it takes a, b, and only one of them can be the payload"),
        ("a=1, b=2", "it takes a, b, and only one of them can be the payload"),
        ("ctx, context", "it takes ctx, context, and only one of them can be the context"),
        ("payload, ctx, more", "it takes payload, more"),
        ("ctx, payload", "payload and context come before others, in this order"),
        ("ctx, verbose=False", "payload and context come before others"),
        ("verbose=False, payload=None", "payload and context come before others"),
        ("payload, retries=3, ctx=None", "payload and context come before others"),
        ("payload, *, ctx", "payload and context come before others"),
        ("*, payload=None", "payload and context come before others"),
        ("*args", r"\*args names no payload; if it is a decorator's, that needs functools.wraps"),
        ("ctx, **kwargs", r"\*\*kwargs names no payload"),
        ("self", "there is no object to call it on as 'self'; make it a function"),
        ("self, payload", "there is no object to call it on as 'self'"),
        ("cls, payload", "there is no object to call it on as 'cls'"),
    ],
)
def test_another_signature_is_refused_with_the_reason_and_the_lawful_ones(parameters: str, reason: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def wrong({parameters}): ...", scope)

    with pytest.raises(BadTask, match=rf"{reason}.* must be \(payload\), \(payload, ctx\), \(ctx\) or \(\)"):
        task("wrong")(scope["wrong"])


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (functools.wraps(_payload)(lambda: None), "cannot be called like that"),
        (max, "no signature found"),
        (_Called, "must stand on a function, not on a type"),
    ],
)
def test_what_cannot_be_called_as_it_looks_is_refused(handler: Any, reason: str) -> None:
    with pytest.raises(BadTask, match=reason):
        task("wrong")(handler)


def test_an_object_and_a_static_method_run_as_their_code_does(registry: Handlers) -> None:
    class Called:
        async def __call__(self, payload: Any) -> None: ...

        @task("static")
        @staticmethod
        async def static(payload: Any) -> None: ...

    task("called")(Called())

    assert [registry.get(name).kind for name in ("called", "static")] == ["async", "async"]


@pytest.mark.parametrize("function", [lambda n=5: None, lambda n=5, ctx=None: None])
def test_a_default_stands_in_for_the_payload_of_a_task_that_has_none(registry: Handlers, function: Any) -> None:
    task("lenient")(function)

    assert registry.get("lenient").arguments(None, "C")[0] == 5
    assert registry.get("lenient").arguments(0, "C")[0] == 0


def _validating(registry: Handlers) -> Handler:
    @task("read")
    def read(payload: Text) -> None: ...

    return registry.get("read")


def test_a_payload_annotated_with_a_model_arrives_as_that_model(registry: Handlers) -> None:
    assert _validating(registry).arguments({"text": "a"}, None) == (Text(text="a"),)


def test_a_payload_that_breaks_its_model_is_refused_naming_the_field(registry: Handlers) -> None:
    with pytest.raises(BadTask, match=r"payload field 'words.1': Input should be a valid integer.*'x'"):
        _validating(registry).arguments({"text": "a", "words": [1, "x"]}, None)


def test_models_inside_another_annotation_are_validated_too(registry: Handlers) -> None:
    @task("read_all")
    def read_all(payload: list[Text] | None) -> None: ...

    assert registry.get("read_all").arguments([{"text": "a"}], None) == ([Text(text="a")],)


@pytest.mark.parametrize("annotation", ["Text | None", "Text"])
def test_a_payload_with_a_default_is_validated_when_there_is_one(registry: Handlers, annotation: str) -> None:
    scope: dict[str, Any] = {"Text": Text}
    exec(f"def read(order: {annotation} = None): ...", scope)
    task("read_one")(scope["read"])

    assert registry.get("read_one").arguments({"text": "a"}, None) == (Text(text="a"),)
    assert registry.get("read_one").arguments(None, None) == (None,)
    with pytest.raises(BadTask, match="text"):
        registry.get("read_one").arguments({}, None)


def test_a_model_defined_beside_the_handler_is_found(registry: Handlers) -> None:
    class Local(BaseModel):
        n: int

    @task("local")
    def local(payload: Local) -> None: ...

    assert registry.get("local").arguments({"n": 1}, None) == (Local(n=1),)


def test_an_annotation_that_cannot_be_resolved_is_refused_with_the_cure() -> None:
    scope: dict[str, Any] = {}
    exec("def unclear(payload: 'Missing'): ...", scope)

    with pytest.raises(BadTask, match="not under TYPE_CHECKING"):
        task("unclear")(scope["unclear"])


# modules


def test_a_file_is_imported_with_its_neighbours(registry: Handlers, tmp_path: Path) -> None:
    (tmp_path / "made_beside.py").write_text("NAME = 'from_file'\n")
    (tmp_path / "made_tasks.py").write_text(
        "from made_beside import NAME\nfrom worker.authoring.handlers import task\n@task(NAME)\ndef f(): ...\n"
    )

    load_modules([str(tmp_path / "made_tasks.py")])
    load_modules([str(tmp_path / "made_tasks.py")])

    assert registry.names() == ["from_file"]


def test_a_module_is_found_in_the_current_directory(
    registry: Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_here.py").write_text("from worker.authoring.handlers import task\n@task('here')\ndef f(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    load_modules(["made_here"])

    assert registry.names() == ["here"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, "there is no such file"),
        ("import made_absent", "needs the module 'made_absent'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", r"SyntaxError: invalid syntax \(/"),
        ("x = 1\n    y = 2", r"IndentationError: unexpected indent \(/"),
        ("def broken(:", r"made_wrong.py:1\)"),
        ("x = 1", "nothing in there is marked @task"),
    ],
)
def test_a_file_that_gives_no_handler_is_refused_with_the_reason(
    tmp_path: Path, source: str | None, problem: str
) -> None:
    path = tmp_path / "made_wrong.py"
    if source is not None:
        path.write_text(source)

    with pytest.raises(ConfigError, match=problem):
        load_modules([str(path)])


def test_a_module_that_does_not_exist_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"no module 'made_nowhere'.*--import ./path/to/file.py"):
        load_modules(["made_nowhere.tasks"])


def test_a_file_named_like_a_loaded_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")

    with pytest.raises(ConfigError, match="Rename the file"):
        load_modules([str(tmp_path / "json.py")])


def test_a_module_that_fails_on_import_is_refused_with_the_line_that_failed(tmp_path: Path) -> None:
    (tmp_path / "made_failing.py").write_text("ok = 1\nint('x')\n")

    with pytest.raises(ConfigError, match=r"ValueError: .*made_failing\.py:2\)"):
        load_modules([str(tmp_path / "made_failing.py")])


@pytest.mark.parametrize("first", ["", "import worker.agent", "from worker.agent import WorkerAgent", "import worker"])
def test_the_decorator_called_agent_is_found_whatever_was_imported_before(first: str) -> None:
    code = (
        f"{first}\nfrom worker import agent, task\nagent('write'), task('count')\nfrom worker.agent import WorkerAgent"
    )
    root = Path(__file__).parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_registering_handlers_imports_no_langgraph() -> None:
    code = "import sys, worker; sys.exit('langgraph' in sys.modules or 'langchain_core' in sys.modules)"
    root = Path(__file__).parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
