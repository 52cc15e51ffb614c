"""`agent_system` in a checkout: the name that it has where it is installed, for the same modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import agent_system
import core
import core.errors
import worker
from agent_system import AgentClient, Context, CoordinatorAgent, Task, TaskLost, WorkerAgent, agent, task
from core.client.agent_client import AgentClient as ClientOfCore
from worker.agent import WorkerAgent as WorkerOfItsTier

ROOT = Path(__file__).resolve().parents[2]
#: Names that stand for a class with another.
OTHER_NAMES = {"TaskPriority": "Priority"}


@pytest.mark.parametrize("name", agent_system.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(agent_system, name).__name__ == OTHER_NAMES.get(name, name)


def test_whatever_a_program_imports_from_the_packages_is_there() -> None:
    assert {*core.__all__, *worker.__all__} <= {*agent_system.__all__}


def test_a_name_stands_for_the_same_object_as_in_its_package() -> None:
    assert (AgentClient, Task, TaskLost) == (ClientOfCore, core.Task, core.errors.TaskLost)
    assert (task, agent, Context, WorkerAgent) == (worker.task, worker.agent, worker.Context, WorkerOfItsTier)
    assert CoordinatorAgent.__module__ == "coordinator.agent"


@pytest.mark.parametrize("name", ["core", "core.errors", "core.cli.__main__", "worker", "worker.rules", "coordinator"])
def test_a_module_is_one_module_under_both_names(name: str) -> None:
    ours = importlib.import_module(name)
    spec = ours.__spec__

    assert importlib.import_module(f"agent_system.{name}") is ours
    assert (ours.__name__, ours.__spec__) == (name, spec)


@pytest.mark.parametrize("name", ["agent_system.core.nothing", "agent_system.nothing", "agent_system.tests"])
def test_a_module_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_a_name_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"'agent_system' has no attribute 'Tasks'"):
        _ = agent_system.Tasks  # type: ignore[attr-defined] # nor does a type checker let it pass


@pytest.mark.parametrize("name", ["core/__init__.py", "coordinator.py", "worker.py"])
def test_a_project_with_a_package_of_the_same_name_is_told_to_install_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("Task = task = 'of somebody else'")

    tried = subprocess.run(
        [sys.executable, "-c", "from agent_system import Task"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert tried.returncode == 1
    assert str(tmp_path / name.split("/")[0]) in tried.stderr.splitlines()[-1]
    assert tried.stderr.splitlines()[-1].endswith(f"installs the package: pip install {ROOT}")


@pytest.mark.parametrize(
    ("program", "says"),
    [("agent_system", "Usage: agents"), ("agent_system.worker", "Runs one worker until it is stopped")],
)
def test_the_programs_run_by_that_name(program: str, says: str) -> None:
    asked = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
    assert says in asked.stdout
