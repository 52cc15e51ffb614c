"""docs/guarantees.md lists the matrix as the tests have it: no line without a test, no test that is not listed."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
GUARANTEES = HERE.parents[1] / "docs" / "guarantees.md"
LINES = 56
#: | 7 | a stopped worker wakes up | `test_kills.py` test_one, test_two |
_ROW = re.compile(r"\| (\d+) \| [^|]+ \| ([^|]+) \|")
_TEST = re.compile(r"\btest_\w+(?!\w|\.py)")


def marked() -> dict[int, set[str]]:
    """Names of the tests that hold each line."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.matrix":
                    for line in decorator.args:
                        found[int(ast.literal_eval(line))].add(node.name)
    return found


def listed() -> dict[int, set[str]]:
    """The same, as the document says."""
    rows = _ROW.findall(GUARANTEES.read_text().partition("## The matrix")[2])
    assert [int(line) for line, _ in rows] == list(range(1, LINES + 1))
    return {int(line): set(_TEST.findall(tests)) for line, tests in rows}


def test_every_line_has_its_tests_in_the_document_and_every_test_its_line() -> None:
    marks, document = marked(), listed()
    differences = {
        line: sorted(marks.get(line, set()) ^ document.get(line, set()))
        for line in range(1, LINES + 1)
        if marks.get(line, set()) != document.get(line, set())
    }
    assert not differences
    assert not [line for line, tests in document.items() if not tests], "lines without a test"
