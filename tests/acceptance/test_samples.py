"""Every sample of README and docs is code that strict type checkers accept, as in a project that uses the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: LangGraph's own annotations have gaps, which pyright would report at each use of a graph.
STRICT = "# pyright: strict"
STRICT_ABOUT_US = f"{STRICT}, reportMissingTypeStubs=false, reportUnknownMemberType=false"
#: People do not annotate the fixtures of their tests.
OF_TESTS = "# pyright: basic\n# mypy: allow-untyped-defs"
#: The names that our packages have in a checkout.
OURS = r"(?:core|coordinator|distributor|worker)\b"

pytestmark = pytest.mark.timeout(400)  # for a first time, without the checker's cache, on a busy machine


@pytest.fixture
def samples(tmp_path: Path) -> list[Path]:
    """The samples as files, each named after its page and place."""
    written = []
    for page in PAGES:
        for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)):
            path = tmp_path / f"{page.stem.lower()}_{number}.py"
            path.write_text(f"{_rules(text)}\n{text}")
            written.append(path)
    assert len(written) > 4
    return written


def _rules(sample: str) -> str:
    if "def test_" in sample:
        return OF_TESTS
    return STRICT_ABOUT_US if "langgraph" in sample else STRICT


def checked(checker: Sequence[str], samples: list[Path], **environment: str) -> str:
    """What the checker says of the samples; empty when it accepts them."""
    ran = subprocess.run(
        [sys.executable, "-m", *checker, *map(str, samples)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_mypy_accepts_every_sample(samples: list[Path]) -> None:
    assert checked(["mypy", "--strict"], samples) == ""


def test_pyright_accepts_every_sample(samples: list[Path]) -> None:
    """With what came in its wheel and that of node: at run time nothing is fetched."""
    offline = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "PYRIGHT_PYTHON_GLOBAL_NODE": "0"}
    assert checked(["pyright", "--pythonpath", sys.executable], samples, **offline) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_sample_names_us_as_a_project_does_that_installs_us(page: Path) -> None:
    samples = "".join(re.findall(r"^ *```(?:python|console)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE))
    assert not re.findall(rf"^ *(?:from|import) {OURS}.*|-m {OURS}.*", samples, re.MULTILINE)


def test_every_package_brings_its_types() -> None:
    found = [*ROOT.glob("*/__init__.py"), *ROOT.glob("deploy/package/*/__init__.py")]
    not_installed = {"examples", "tests"}
    packages = {
        file.parent.name: file.with_name("py.typed").is_file()
        for file in found
        if file.parent.name not in not_installed
    }
    assert packages == dict.fromkeys(("agent_system", "core", "coordinator", "distributor", "worker"), True)
