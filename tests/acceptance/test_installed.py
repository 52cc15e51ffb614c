"""Installed into a project that has a `core`, a `worker.py`, a `coordinator` and a `distributor.py` of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(300)  # the first test also waits for the environment to be made

#: The project. Another `core`, which somebody has installed, is not the one that it means.
FILES = {
    "core/__init__.py": "",
    "core/prices.py": "EACH = 3",
    "worker.py": """
from agent_system import Context, task
from core.prices import EACH

@task("price")
def price(pieces: int, ctx: Context) -> list[object]:
    return [pieces * EACH, ctx.task_id, __name__]

@task("price_soon")
async def price_soon(pieces: int) -> int:
    return pieces * EACH
""",
    "coordinator/__init__.py": "",
    "coordinator/jobs.py": """
from typing import TypedDict
from agent_system import agent
from langgraph.graph import START, StateGraph

class Bill(TypedDict):
    total: int

@agent("bill")
def bill() -> StateGraph[Bill]:
    graph = StateGraph(Bill)
    graph.add_node("tax", lambda state: {"total": state["total"] * 2})
    graph.add_edge(START, "tax")
    return graph
""",
    "distributor.py": "raise SystemExit('this is not the distributor that was meant')",
    "submit.py": """
import core.prices
from agent_system import AgentClient, Task

with AgentClient() as client:
    ids = client.submit_many([Task(task_type="price_soon", payload=n) for n in range(3)])
    print(sorted(task.result for task in client.as_completed(ids)), core.prices.EACH)
""",
    "hold_a_worker.py": """
import json
from agent_system import Task, WorkerAgent

if __name__ == "__main__":
    with WorkerAgent("worker-of-a-script", distributor_id="nobody", modules=["worker"]) as worker:
        print(json.dumps(worker.execute_task(Task(task_id="t", task_type="price", payload=2))["result"]))
""",
}
INSTALLED_BY_OTHERS = {"core/__init__.py": "", "core/prices.py": "EACH = 1000"}

#: Imports every module with a finder before all others that gives none of the four names.
IMPORT_ALL = """
import sys
from importlib import import_module
from pkgutil import walk_packages

class NoneOfThese:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"core", "coordinator", "distributor", "worker"}:
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, NoneOfThese())
import agent_system
names = [found.name for found in walk_packages(agent_system.__path__, "agent_system.")]
for name in names:
    import_module(name)
for name in agent_system.__all__:
    getattr(agent_system, name)
print(len(names))
"""


class Project:
    """A directory with the files of FILES and an environment into which we are installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / ".venv" / "bin"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "AGENT_DATA_DIR": str(directory / "data"),
            "REDIS_PORT": str(port),
        }

    def run(self, command: str, *arguments: str, **environment: str) -> str:
        """What a command of the environment prints. Fails the test when it fails."""
        done = subprocess.run(
            [self.bin / command, *arguments], cwd=self.directory, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def process(self, *arguments: str) -> Iterator[None]:
        """`python ARGUMENTS` for as long as the block lasts; drained then."""
        process = subprocess.Popen([self.bin / "python", *arguments], cwd=self.directory, env=self.environment)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """With what we need ourselves out of the environment of the tests, so that nothing is fetched."""
    pytest.importorskip("ensurepip", reason="Debian packs it with python3-venv")
    directory = Path(tempfile.mkdtemp(prefix="aw-", dir="/tmp"))
    project = Project(directory)
    try:
        write(directory, FILES)
        subprocess.run([sys.executable, "-m", "venv", directory / ".venv"], check=True, timeout=100)
        project.run("pip", "install", "--quiet", "--no-deps", "--no-index", str(ROOT))
        [site] = (directory / ".venv" / "lib").glob("*/site-packages")
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        write(site, INSTALLED_BY_OTHERS)
        yield project
        project.run("agents", "redis", "stop")
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def hierarchy(project: Project) -> Iterator[Project]:
    """At work, on the server that comes along."""
    project.run("agents", "up", "--import", "worker", "--import", "coordinator.jobs", "--detach")
    yield project
    project.run("agents", "down")


def test_tasks_of_modules_with_the_names_of_ours_run(hierarchy: Project) -> None:
    priced = json.loads(hierarchy.run("agents", "submit", "price", "2", "--id", "p", "--wait"))
    billed = json.loads(hierarchy.run("agents", "submit", "bill", '{"total": 4}', "--wait"))

    assert priced == [6, "p", "worker"]
    assert billed == {"total": 8}


def test_a_program_submits_and_imports_its_own_core(hierarchy: Project) -> None:
    assert hierarchy.run("python", "submit.py") == "[0, 3, 6] 3\n"


def test_children_of_a_worker_that_a_script_holds_import_what_the_script_would(hierarchy: Project) -> None:
    assert json.loads(hierarchy.run("python", "hold_a_worker.py")) == [6, "t", "worker"]


def test_each_tier_is_a_program_of_its_own(hierarchy: Project) -> None:
    with ExitStack() as running:
        for arguments in (
            ("coordinator", "--id", "by-hand"),
            ("distributor", "--id", "by-hand-1", "--coordinator", "by-hand"),
            ("worker", "--id", "w", "--distributor", "by-hand-1", "--coordinator", "by-hand", "--import", "worker"),
        ):
            running.enter_context(hierarchy.process("-m", f"agent_system.{arguments[0]}", *arguments[1:]))

        assert hierarchy.run("agents", "submit", "price_soon", "5", "--wait", COORDINATOR_ID="by-hand") == "15\n"


def test_chaos_breaks_a_hierarchy_of_the_installed_package(project: Project) -> None:
    assert "NOTHING LOST" in project.run("agents", "chaos", "--minutes", "0.1")


def test_nothing_in_it_needs_the_four_names(project: Project) -> None:
    assert int(project.run("python", "-c", IMPORT_ALL)) > 100
