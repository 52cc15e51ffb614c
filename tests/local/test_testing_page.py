"""The samples of docs/testing.md are test files that pass as they stand, where nothing but the plugin helps them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "testing.md").read_text(), re.MULTILINE | re.DOTALL)
LINES_OF_THE_FIRST = 25


def test_the_samples_pass_as_they_stand(tmp_path: Path) -> None:
    for number, sample in enumerate(SAMPLES):
        (tmp_path / f"test_sample_{number}.py").write_text(sample)

    paths = f"{ROOT}:{ROOT / 'deploy' / 'package'}"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "agent_system.core.local.pytest_plugin", "-p", "no:asyncio",
         "-p", "no:anyio", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{sum(sample.count('def test_') for sample in SAMPLES)} passed" in ran.stdout


def test_the_page_opens_with_a_short_program() -> None:
    assert SAMPLES[0].count("\n") <= LINES_OF_THE_FIRST


def test_the_plugin_costs_those_who_do_not_use_it_nothing() -> None:
    code = "import sys, core.local.pytest_plugin as p; print([n for n in sys.modules if n.startswith('core.')])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['core.local', 'core.local.pytest_plugin']"
