"""The mutation tester is told of files that are there. It does not run at all when one of its tests is missing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOLD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]


@pytest.mark.parametrize("setting", ["source_paths", "only_mutate", "also_copy", "pytest_add_cli_args_test_selection"])
def test_every_file_that_the_mutation_tester_is_told_of_exists(setting: str) -> None:
    assert TOLD[setting]
    assert [path for path in TOLD[setting] if not (ROOT / path).exists()] == []
