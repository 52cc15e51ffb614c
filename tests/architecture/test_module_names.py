"""Text that names a module of ours holds for a checkout, and for where we are installed, below `agent_system`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.architecture.test_imports import PACKAGES, ROOT, TIERS, sources

OURS = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)*")


def fixed_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each name of a module of ours that does not come out of `module_name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                named: list[ast.expr | None] = [ast.Constant(alias.name) for alias in node.names]
            case ast.Call(func=ast.Name(id="module_name")):
                continue
            case ast.Call(args=arguments, keywords=keywords):
                named = [*arguments, *(keyword.value for keyword in keywords)]
            case ast.Assign(value=value) | ast.AnnAssign(value=value):
                named = [value]
            case ast.List(elts=named_in) | ast.Tuple(elts=named_in) | ast.Dict(values=named_in):
                named = [*named_in]
                yield from ((node.lineno, program) for program in _programs(named_in))
            case _:
                continue
        texts = [text for expression in named if (text := _text(expression))]
        yield from ((node.lineno, text) for text in texts if OURS.fullmatch(text) and "." in text)


def _text(value: ast.expr | None) -> str:
    """A text; where something is put into it, `_`, or at the beginning of the name of a program the name of a tier."""
    match value:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            text = "".join(_text(part) or "_" for part in parts)
            return text.replace("_", TIERS[0], 1) if text in {"_.__main__", "_.graph"} else text
    return ""


def _programs(arguments: list[ast.expr]) -> Iterator[str]:
    """What follows `-m`, as in `python -m worker`."""
    texts = [argument.value if isinstance(argument, ast.Constant) else None for argument in arguments]
    for flag, program in pairwise(texts):
        if flag == "-m" and isinstance(program, str) and OURS.fullmatch(program):
            yield program


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_of_ours_is_named_by_a_fixed_name(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {text}" for line, text in fixed_names(ast.parse(path.read_bytes()))]
    assert not found, "\n".join(["use core.module_names.module_name, or from ... import ...", *found])


@pytest.mark.parametrize(
    "line",
    [
        "import core.errors",
        "NAME = 'worker.children.forkserver'",
        "command = [sys.executable, '-m', 'worker']",
        "command = (*('-m', 'core.cli', 'up'), '--import')",
        "import_module('core.chaos.program')",
        "import_module(f'{tier}.__main__')",
        "flags = ('--import', f'core.chaos.{module}')",
        "logging.getLogger('core.runtime')",
        "order = {'module': f'{role}.__main__'}",
        "run(module='core.cli')",
    ],
)
def test_a_fixed_name_is_found(line: str) -> None:
    assert list(fixed_names(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "NAME = module_name('worker.children.forkserver')",
        "import_module(module_name(f'{tier}.__main__'))",
        "command = [sys.executable, '-m', 'ruff']",
        "kill: Literal['worker', 'distributor']",
        "parser = arguments('worker', 'WORKER_ID')",
        "import logging",
    ],
)
def test_another_name_is_let_through(line: str) -> None:
    assert not list(fixed_names(ast.parse(line)))
