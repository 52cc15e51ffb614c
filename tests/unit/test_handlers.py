"""Registering functions and graphs, reading their signatures, and the context they get."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import worker.handler_modules
import worker.handlers
from core.errors import BadTask, ConfigError, TaskFailed
from core.tasks import PAYLOAD_LIMIT_BYTES, Task, TaskError, TaskStatus
from worker.context import ChildOutcome, Context, Progress, Spawn, current_context, running_context
from worker.handlers import Handler, Handlers, agent, load_modules, task


class Text(BaseModel):
    text: str
    words: list[int] = []


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    """A registry of its own for each test, and whatever it imported forgotten after it."""
    fresh = Handlers()
    monkeypatch.setattr(worker.handlers, "HANDLERS", fresh)
    monkeypatch.setattr(worker.handler_modules, "HANDLERS", fresh)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield fresh
    for name in set(sys.modules) - before:
        if name.startswith("made_"):
            del sys.modules[name]


def outcome(child: str, status: TaskStatus = TaskStatus.COMPLETED, result: Any = None) -> ChildOutcome:
    error = None if status is TaskStatus.COMPLETED else TaskError(type="ValueError", message="bad")
    return ChildOutcome(child, "part", status, result, error)


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


def test_an_agent_must_be_a_graph_or_a_builder_without_arguments() -> None:
    with pytest.raises(BadTask, match="needs model"):

        @agent("review")
        def build(model: str) -> object: ...

    with pytest.raises(BadTask, match="coroutine function"):

        @agent("review")
        async def build_later() -> object: ...

    with pytest.raises(BadTask, match="not on a int"):
        agent("review")(3)


# signatures


def _payload(payload: Any) -> None: ...
def _payload_context(anything: Any, ctx: Any) -> None: ...
def _annotated_context(anything: Any, c: Context) -> None: ...
def _context(context: Any) -> None: ...
def _nothing() -> None: ...
def _defaults(payload: Any = None, *, verbose: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (_payload, ("P",)),
        (_payload_context, ("P", "C")),
        (_annotated_context, ("P", "C")),
        (_context, ("C",)),
        (_nothing, ()),
        (_defaults, ("P",)),
    ],
)
def test_a_handler_gets_the_arguments_it_names(registry: Handlers, function: Any, arguments: tuple[str, ...]) -> None:
    task("shape")(function)

    assert registry.get("shape").arguments("P", "C") == arguments


@pytest.mark.parametrize("parameters", ["a, b", "ctx, payload", "payload, *, ctx", "payload, ctx, more"])
def test_another_signature_is_refused_with_the_lawful_ones(parameters: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def wrong({parameters}): ...", scope)

    with pytest.raises(BadTask, match=r"must be \(payload\), \(payload, ctx\), \(ctx\) or \(\)"):
        task("wrong")(scope["wrong"])


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
        "from made_beside import NAME\nfrom worker.handlers import task\n@task(NAME)\ndef f(): ...\n"
    )

    load_modules([str(tmp_path / "made_tasks.py")])
    load_modules([str(tmp_path / "made_tasks.py")])

    assert registry.names() == ["from_file"]


def test_a_module_is_found_in_the_current_directory(
    registry: Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_here.py").write_text("from worker.handlers import task\n@task('here')\ndef f(): ...\n")
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
        ("def broken(:", "SyntaxError"),
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
    code = "import sys, worker.handlers; sys.exit('langgraph' in sys.modules or 'langchain_core' in sys.modules)"
    root = Path(__file__).parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# context


def test_spawned_children_without_an_id_are_named_after_their_parent() -> None:
    spawn = Context("job").spawn(
        [Task(task_type="part"), Task(task_type="part", task_id="own"), Task(task_type="part")],
        then="merge",
        payload=[1],
    )

    assert isinstance(spawn, Spawn)
    assert [child.task_id for child in spawn.children] == ["job/0", "own", "job/2"]
    assert (spawn.then.task_type, spawn.then.payload) == ("merge", [1])


@pytest.mark.parametrize(
    ("children", "problem"),
    [
        ([], "at least one child"),
        ([{"task_type": "part"}], "got a dict as child 0"),
        ([Task(task_type="part", task_id="a"), Task(task_type="part", task_id="a")], "two children with the id 'a'"),
        ([Task(task_type="part", payload="x" * PAYLOAD_LIMIT_BYTES)], "payload of task 'job/0' has"),
        ([Task(task_type="part", payload=object())], "payload of task 'job/0' is not JSON"),
    ],
)
def test_children_that_cannot_run_are_refused(children: list[Any], problem: str) -> None:
    with pytest.raises(BadTask, match=problem):
        Context("job").spawn(children)


def test_a_child_whose_id_would_be_too_long_is_refused() -> None:
    with pytest.raises(BadTask, match="over 200 characters"):
        Context("j" * 199).spawn([Task(task_type="part")])


def test_results_are_those_of_the_children_in_order() -> None:
    assert Context("job", children=[outcome("a", result=1), outcome("b", result=2)]).results() == [1, 2]


def test_results_raise_for_the_first_child_that_failed() -> None:
    children = [outcome("a", result=1), outcome("b", TaskStatus.FAILED), outcome("c", TaskStatus.CANCELLED)]

    with pytest.raises(TaskFailed, match="'b' ended as failed: ValueError: bad"):
        Context("job", children=children).results()


def test_progress_reaches_whoever_listens() -> None:
    heard: list[Progress] = []

    Context("job", attempt=2, on_progress=heard.append).progress(0.5, "half", files=3)

    assert heard == [Progress("job", 2, 0.5, "half", {"files": 3})]


def test_progress_is_what_it_was_when_it_was_reported() -> None:
    heard: list[Progress] = []
    seen: dict[str, Any] = {"files": []}

    Context("job", on_progress=heard.append).progress(note="so far", seen=seen)
    seen["files"].append(object())

    assert (heard[0].note, heard[0].data) == ("so far", {"seen": {"files": []}})


@pytest.mark.parametrize("fraction", [-0.1, 50, float("nan")])
def test_progress_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(BadTask, match="divide what is done by the total"):
        Context("job").progress(fraction)


def test_progress_that_overshoots_by_rounding_counts_as_done() -> None:
    heard: list[Progress] = []
    Context("job", on_progress=heard.append).progress(1.00001)

    assert heard[0].fraction == 1.0


def test_progress_too_large_is_refused() -> None:
    with pytest.raises(BadTask, match="over 4096"):
        Context("job").progress(note="x" * 5000)


def test_cancelled_stays_true_once_it_was() -> None:
    answers = iter([False, True])
    context = Context("job", asks_cancelled=lambda: next(answers))

    assert [context.cancelled, context.cancelled, context.cancelled] == [False, True, True]


def test_the_idempotency_key_is_the_task_id_unless_given() -> None:
    assert Context("job").idempotency_key == "job"
    assert Context("job", idempotency_key="order-7").idempotency_key == "order-7"


def test_the_current_context_is_there_while_a_task_runs_only() -> None:
    with pytest.raises(BadTask, match="works only while a task runs"):
        current_context()

    context = Context("job")
    token = running_context.set(context)
    try:
        assert current_context() is context
    finally:
        running_context.reset(token)
