"""What is built: renamed imports, the files of a wheel, what they say of the project."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import tarfile
import tomllib
import zipfile
from contextlib import chdir
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from agent_system_build import build_editable, build_sdist, build_wheel, renamed

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
BASE = f"agent_system-{VERSION}"
OF_A_PACKAGE_OF_OURS = re.compile(rb"^\s*(from|import) (core|coordinator|distributor|worker)\b", re.MULTILINE)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a build backend is called."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("wheel")
    with chdir(ROOT):
        return contents(directory / build_wheel(str(directory)))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from core import Task", "from agent_system.core import Task"),
        (
            "from worker.agent import (\n    WorkerAgent,\n)",
            "from agent_system.worker.agent import (\n    WorkerAgent,\n)",
        ),
        ("def f():\n    from core.step import run\n", "def f():\n    from agent_system.core.step import run\n"),
        ("if TYPE_CHECKING:\n    from core import Task", "if TYPE_CHECKING:\n    from agent_system.core import Task"),
        ("from corelib import core", "from corelib import core"),
        ("from . import core", "from . import core"),
        ("import coreutils, workers", "import coreutils, workers"),
        ('"""from core import Task"""', '"""from core import Task"""'),
        ("core = 'core.tasks'  # from core", "core = 'core.tasks'  # from core"),
        ("text = 'é\\f\\x1c'\nfrom core import Task", "text = 'é\\f\\x1c'\nfrom agent_system.core import Task"),
    ],
)
def test_imports_of_ours_and_nothing_else_are_renamed(source: str, expected: str) -> None:
    assert renamed(source) == expected


@pytest.mark.parametrize(
    "source", ["import core.errors", "import os, worker", "from  core import Task", "from core \\\n import Task"]
)
def test_an_import_that_cannot_be_renamed_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="line 1: write from"):
        renamed(source)


def test_the_wheel_is_one_typed_package(wheel: dict[str, bytes]) -> None:
    assert {name.split("/")[0] for name in wheel} == {"agent_system", f"{BASE}.dist-info"}
    assert "agent_system/py.typed" in wheel
    assert {name for name in wheel if name.endswith("__main__.py")} >= {
        f"agent_system/{program}__main__.py" for program in ("", "coordinator/", "distributor/", "worker/", "core/cli/")
    }


def test_every_module_of_the_checkout_is_in_it_once(wheel: dict[str, bytes]) -> None:
    packages = ("core", "coordinator", "distributor", "worker")
    ours = {f"agent_system/{path.as_posix()}" for top in packages for path in Path(top).rglob("*.py")}
    in_it = {name for name in wheel if name.endswith(".py")}

    assert in_it == ours | {
        f"agent_system/{name}.py" for name in ("__init__", "__main__", "checkpoints", "engine", "events", "rehearsal")
    }


def test_no_import_in_it_needs_the_names_of_the_checkout(wheel: dict[str, bytes]) -> None:
    assert [name for name, content in wheel.items() if OF_A_PACKAGE_OF_OURS.search(content)] == []


def test_its_record_has_the_hash_of_every_file(wheel: dict[str, bytes]) -> None:
    record = f"{BASE}.dist-info/RECORD"
    recorded = dict(line.split(",", 1) for line in wheel[record].decode().splitlines())

    assert recorded.pop(record) == ","
    assert recorded == {
        name: f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
        for name, content in wheel.items()
        if name != record
    }


def test_its_metadata_is_valid_and_says_what_the_project_does(wheel: dict[str, bytes]) -> None:
    said = Metadata.from_email(wheel[f"{BASE}.dist-info/METADATA"])  # raises for what is not allowed

    assert (said.name, str(said.version), said.license_expression) == ("agent-system", VERSION, "MIT")
    assert str(said.requires_python) == ">=3.11"
    assert "langgraph" in {requirement.name for requirement in said.requires_dist or ()}
    assert said.description == (ROOT / "README.md").read_text()
    assert wheel[f"{BASE}.dist-info/entry_points.txt"].decode().split("\n\n") == [
        "[console_scripts]\nagents = agent_system.__main__:main",
        "[pytest11]\nagent_system = agent_system.core.local.pytest_plugin\n",
    ]


def test_the_same_wheel_comes_out_of_the_source_archive(
    wheel: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / build_sdist(str(tmp_path))) as archive:
        archive.extractall(tmp_path, filter="data")

    monkeypatch.chdir(tmp_path / BASE)
    assert contents(tmp_path / build_wheel(str(tmp_path))) == wheel


def test_an_editable_wheel_points_at_the_checkout(tmp_path: Path) -> None:
    files = contents(tmp_path / build_editable(str(tmp_path)))

    assert files["agent_system.pth"].decode().splitlines() == [str(ROOT), str(ROOT / "deploy" / "package")]
    assert f"{BASE}.dist-info/entry_points.txt" in files
    assert not [name for name in files if name.endswith(".py")]


def test_a_file_that_cannot_be_renamed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deploy", "core", "coordinator", "distributor", "worker", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / name)
    (tmp_path / "worker" / "new.py").write_text("import core.tasks\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match=r"worker/new\.py: line 1: write from"):
        build_wheel(str(tmp_path))
