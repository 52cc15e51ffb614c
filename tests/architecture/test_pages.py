"""The pages lead to each other, and name what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.architecture.test_imports import FLOORS_OF_CORE

ROOT = Path(__file__).parents[2]
#: Of code, in a tall editor.
LINES_OF_A_SCREEN = 80
LINES_OF_TWO_SCREENS = 140
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
CODE = "\n".join(
    f"{path.stem}\n{path.read_text()}"
    for package in ("core", "coordinator", "distributor", "worker")
    for path in sorted((ROOT / package).rglob("*.py"))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {link for link in re.findall(r"\]\(([^)]+)\)", index.read_text()) if "/" not in link}
    assert listed == {page.name for page in DOCS.glob("*.md")} - {index.name}


def glossary() -> dict[str, list[str]]:
    """Each word, and its names in the code."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    return {word: re.findall("`([^`]+)`", names) for word, names in rows if word != "word"}


def test_the_glossary_has_a_name_for_every_word_and_the_code_has_that_name() -> None:
    missing = {
        word: names
        for word, names in glossary().items()
        if not names or not all(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", CODE) for name in names)
    }
    assert len(glossary()) > 40
    assert missing == {}


def test_the_example_is_the_product_on_one_screen() -> None:
    source = (ROOT / "example_e2e.py").read_text()
    decorated = re.findall(r"^@(\w+)\(.*\)\n(?:async )?def (\w+)", source, re.MULTILINE)
    assert decorated == [("task", "plan"), ("agent", "review"), ("task", "reduce")]
    packages = set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)) - sys.stdlib_module_names
    assert packages - {"__future__"} == {"agent_system", "examples"}
    assert source.count("\n") <= LINES_OF_A_SCREEN


def test_the_readme_is_two_screens_long() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= LINES_OF_TWO_SCREENS


def test_the_readme_shows_every_room_in_the_order_in_which_they_stand_on_each_other() -> None:
    shown = re.findall(r"^    ([a-z_]+(?:/[a-z_]+)?)/ ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [room.replace("/", ".") for room in shown if room.startswith("core/")] == [*FLOORS_OF_CORE]
    assert {*shown} >= {str(room.parent.relative_to(ROOT)) for room in ROOT.glob("worker/**/__init__.py")}


@pytest.mark.parametrize(("length", "refused"), [(72, False), (73, True)])
def test_a_hook_refuses_a_commit_whose_subject_has_more_than_72_characters(length: int, refused: bool) -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    found = re.search(r"id: commit-subject\n.*\n +entry: '(.*)'\n +args: \[--multiline\]", hooks)
    assert found
    message = f"{'x' * length}\n\n{'a body may have longer lines, ' * 5}\n"
    assert bool(re.search(found[1], message, re.MULTILINE | re.DOTALL)) is refused
