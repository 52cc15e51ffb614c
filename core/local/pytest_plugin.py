"""The pytest plugin of the package: a real hierarchy in one process for each test that asks for one.

    def test_it_survives_a_bad_minute(submit_and_wait):
        assert submit_and_wait("report", {"month": 3}).status == "completed"

It is virtual time unless a test is marked `hierarchy(real_time=True)`, or pytest is told `--real-time`. In a test that
is a coroutine, what the fixtures give is awaited, and no other plugin is needed. See docs/testing.md.

pytest imports this file for everybody who has the package installed, so it imports nothing of ours by itself.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from core.local.hierarchy import LocalHierarchy

__all__ = ["events", "hierarchy", "kill", "pytest_pyfunc_call", "questions", "submit_and_wait"]

MARKER = (
    "hierarchy(modules=[...], handlers=None, workers=2, distributors=1, config=None, real_time=False):"
    " what the fixture `hierarchy` is made with; see LocalHierarchy"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("agents").addoption(
        "--real-time", action="store_true", help="hierarchies of tests live in real time, not in virtual time"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def hierarchy(request: pytest.FixtureRequest) -> Iterator[LocalHierarchy]:
    """A LocalHierarchy at work, with a `client`. Random numbers are the same in each run in virtual time."""
    from core.config.settings import AgentConfig
    from core.event_types import EventLevel
    from core.local.hierarchy import LocalHierarchy

    marker = request.node.get_closest_marker("hierarchy")
    options: dict[str, Any] = {"config": AgentConfig(events=EventLevel.ALL), **(marker.kwargs if marker else {})}
    virtual = not options.pop("real_time", request.config.getoption("real_time", False))
    before = random.getstate()
    random.seed(0 if virtual else None)
    made = LocalHierarchy(virtual=virtual, **options)
    try:
        with made:
            yield made
    finally:
        random.setstate(before)


@pytest.fixture
def submit_and_wait(hierarchy: LocalHierarchy) -> Any:
    """`submit_and_wait(task_type, payload, **fields)`, or with a Task: the task, once it has ended."""
    return hierarchy.submit_and_wait


@pytest.fixture
def questions(hierarchy: LocalHierarchy) -> Any:
    """`questions()`: what suspended tasks ask, once one does."""
    return hierarchy.questions


@pytest.fixture
def events(hierarchy: LocalHierarchy) -> Any:
    """`events(*types)`: what the agents have told so far."""
    return hierarchy.events


@pytest.fixture
def kill(hierarchy: LocalHierarchy) -> Any:
    """`kill(worker)`: ends that worker at once; without one, whichever runs a task next. Returns its id."""
    return hierarchy.kill


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine where its hierarchy lives."""
    test = inspect.unwrap(pyfuncitem.obj)
    here: Any = pyfuncitem.funcargs.get("hierarchy")
    if here is None or not inspect.iscoroutinefunction(test):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    here.run(test(**given))
    return True
