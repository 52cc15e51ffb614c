"""McCabe complexity of every function of a parsed file, counted as ruff's rule C901 counts it.

A function starts at 1. Each `if`, `elif`, loop, `except` and `case`, and the `else` of a `try`, adds 1. A last `case`
that always matches is like an `else` and adds nothing. Nested definitions count as well: a function with its whole
complexity, a class with that of its body. Expressions (`and`, `or`, `a if b else c`, comprehensions) do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FunctionNode", "Outline", "Scored", "decisions", "outline"]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Scored:
    """A function and its complexity."""

    node: FunctionNode
    name: str  #: with the enclosing classes and functions, as `__qualname__` but without `<locals>`
    complexity: int


@dataclass(slots=True)
class Outline:
    """The definitions of a file: all functions, including methods and nested ones, and the number of classes."""

    functions: list[Scored] = field(default_factory=list)
    classes: int = 0


def outline(tree: ast.Module) -> Outline:
    """Every function of `tree` with its complexity, and the number of its classes."""
    found = Outline()
    _score(tree.body, "", found)
    return found


def decisions(statements: Iterable[ast.stmt]) -> int:
    """What `statements` add to the complexity of the function around them."""
    return _score(statements, "", Outline())


def _score(statements: Iterable[ast.stmt], prefix: str, found: Outline) -> int:
    """The decisions in `statements`; adds the functions and classes in them to `found`."""
    return sum(
        _SCORES[type(statement)](statement, prefix, found) for statement in statements if type(statement) in _SCORES
    )


def _score_function(node: FunctionNode, prefix: str, found: Outline) -> int:
    name = prefix + node.name
    complexity = 1 + _score(node.body, f"{name}.", found)
    found.functions.append(Scored(node, name, complexity))
    return complexity


def _score_class(node: ast.ClassDef, prefix: str, found: Outline) -> int:
    found.classes += 1
    return _score(node.body, f"{prefix}{node.name}.", found)


def _score_if(node: ast.If, prefix: str, found: Outline) -> int:
    # An `elif` is an `if` inside `orelse`: the chain is followed in a loop, since it may be thousands long.
    score = 1 + _score(node.body, prefix, found)
    while len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        node = node.orelse[0]
        score += 1 + _score(node.body, prefix, found)
    return score + _score(node.orelse, prefix, found)


def _score_loop(node: ast.For | ast.AsyncFor | ast.While, prefix: str, found: Outline) -> int:
    return 1 + _score(node.body, prefix, found) + _score(node.orelse, prefix, found)


def _score_with(node: ast.With | ast.AsyncWith, prefix: str, found: Outline) -> int:
    return _score(node.body, prefix, found)


def _score_try(node: ast.Try | ast.TryStar, prefix: str, found: Outline) -> int:
    blocks = (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody)
    return len(node.handlers) + bool(node.orelse) + sum(_score(block, prefix, found) for block in blocks)


def _score_match(node: ast.Match, prefix: str, found: Outline) -> int:
    last = node.cases[-1]
    always = last.guard is None and _irrefutable(last.pattern)
    return len(node.cases) - always + sum(_score(case.body, prefix, found) for case in node.cases)


def _irrefutable(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchOr):
        return any(map(_irrefutable, pattern.patterns))
    return isinstance(pattern, ast.MatchAs) and (pattern.pattern is None or _irrefutable(pattern.pattern))


_SCORES: dict[type[ast.stmt], Callable[[Any, str, Outline], int]] = {
    ast.FunctionDef: _score_function,
    ast.AsyncFunctionDef: _score_function,
    ast.ClassDef: _score_class,
    ast.If: _score_if,
    ast.For: _score_loop,
    ast.AsyncFor: _score_loop,
    ast.While: _score_loop,
    ast.With: _score_with,
    ast.AsyncWith: _score_with,
    ast.Try: _score_try,
    ast.TryStar: _score_try,
    ast.Match: _score_match,
}
