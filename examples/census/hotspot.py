"""Explains what makes a function too complex, and where to begin. The rules use only its syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from examples.census.mccabe import FunctionNode, Scored, decisions

__all__ = ["Hotspot", "examine"]

#: From this depth on, nesting counts as a problem of its own.
DEEP = 5
#: An `if` chain of at least this length about one subject could be a table.
LONG_CHAIN = 5
#: The block to extract should have between a quarter and three quarters of the decisions.
WORTH_EXTRACTING = (0.25, 0.75)

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_KEYWORDS: dict[type[ast.stmt], str] = {
    ast.If: "if",
    ast.For: "for",
    ast.AsyncFor: "async for",
    ast.While: "while",
    ast.With: "with",
    ast.AsyncWith: "async with",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.Match: "match",
}


class Hotspot(BaseModel):
    """A function that is too complex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str  #: relative to the root of the census, readable for people
    line: int  #: of its `def`
    function: str  #: its name, with the enclosing classes and functions
    complexity: int
    length: int  #: number of lines from `def` to its end
    depth: int  #: depth of its innermost block, from 1 on
    why: str  #: where the complexity comes from, as a sum
    suggestion: str  #: one place to begin


class _Block(NamedTuple):
    node: ast.stmt
    depth: int  #: 1 for a block directly in the function; an `elif` is as deep as its `if`
    is_elif: bool


def examine(path: str, function: Scored) -> Hotspot:
    """The hot spot for `function`. It depends only on the syntax tree."""
    node = function.node
    blocks = list(_blocks(node))
    depth = max((block.depth for block in blocks), default=0)
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    return Hotspot(
        path=path,
        line=node.lineno,
        function=_elided(function.name),
        complexity=function.complexity,
        length=length,
        depth=depth,
        why=_why(function.complexity, blocks, length),
        suggestion=_suggestion(function, blocks),
    )


def _blocks(function: FunctionNode) -> Iterator[_Block]:
    """Every block and nested definition in `function`, in no particular order."""
    # A stack instead of recursion, since a chain of `elif` nests as deep as it is long.
    waiting = [_Block(child, 0, False) for child in function.body]
    while waiting:
        node, depth, is_elif = waiting.pop()
        inside = depth
        if isinstance(node, _BLOCKS):
            inside = depth if is_elif else depth + 1
            yield _Block(node, inside, is_elif)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _Block(node, depth, False)
        for child in _children(node):
            waiting.append(_Block(child, inside, isinstance(node, ast.If) and _elif(node) is child))


def _children(node: ast.stmt) -> Iterator[ast.stmt]:
    for part in ("body", "orelse", "finalbody"):
        yield from getattr(node, part, ())
    for branch in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield from branch.body


def _elif(node: ast.If) -> ast.If | None:
    """The `elif` of an `if`. In the syntax tree it only differs by its indentation from an `if` inside `else`."""
    match node.orelse:
        case [ast.If() as only] if only.col_offset == node.col_offset:
            return only
    return None


def _why(complexity: int, blocks: Sequence[_Block], length: int) -> str:
    counts = _decision_kinds(blocks)
    # The remaining branch, `case _`, costs nothing, so the sum stays right.
    terms = [f"{number} {kind if number == 1 else plural}" for (kind, plural), number in counts.most_common()]
    deepest = max(blocks, key=lambda block: (block.depth, -block.node.lineno))
    nesting = f"; nested {deepest.depth} deep at line {deepest.node.lineno}" if deepest.depth > 1 else ""
    return f"{complexity} = 1 + {' + '.join(terms)}{nesting}; {length} lines"


def _decision_kinds(blocks: Sequence[_Block]) -> Counter[tuple[str, str]]:
    """The number of decisions of each kind, named as (singular, plural). Their sum is the complexity minus 1."""
    counts: Counter[tuple[str, str]] = Counter()
    for node, _, is_elif in blocks:
        match node:
            case ast.If():
                counts["elif" if is_elif else "if", "elif" if is_elif else "if"] += 1
            case ast.For() | ast.AsyncFor() | ast.While():
                counts["loop", "loops"] += 1
            case ast.Try() | ast.TryStar():
                counts["except", "except"] += len(node.handlers)
                counts["else of a try", "else of a try"] += bool(node.orelse)
            case ast.Match():
                own = decisions([node]) - sum(decisions(case.body) for case in node.cases)
                counts["case", "cases"] += own
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                counts["nested function", "nested functions"] += 1
    return +counts


def _suggestion(function: Scored, blocks: Sequence[_Block]) -> str:
    """The suggestion of the first rule that applies."""
    return (
        _move_nested(function)
        or _table(function, blocks)
        or _split_cases(function, blocks)
        or _extract(function, blocks)
        or _cut_in_two(function)
        or _flatten(blocks)
        or "Cut it into steps, each a function of a few decisions."
    )


def _move_nested(function: Scored) -> str | None:
    """Suggests moving nested definitions out if they have most of the complexity."""
    nested = [node for node in function.node.body if isinstance(node, _DEFINITIONS)]
    carried = decisions(nested)
    if 2 * carried < function.complexity:
        return None
    names = _listed([f"`{_elided(node.name)}`" for node in nested])
    return f"Move {names} out of it: {carried} of its {function.complexity} are in there."


def _table(function: Scored, blocks: Sequence[_Block]) -> str | None:
    """Suggests a table if a long chain of `if` compares one subject again and again."""
    chains = [(_chain(node), node) for node, _, is_elif in blocks if isinstance(node, ast.If) and not is_elif]
    for tests, node in sorted(chains, key=lambda chain: -len(chain[0])):
        subjects = Counter(subject for test in tests if (subject := _subject(test)))
        subject, asked = subjects.most_common(1)[0] if subjects else ("", 0)
        if asked >= LONG_CHAIN and 4 * asked >= function.complexity:
            return (
                f"Replace the {len(tests)} branches from line {node.lineno} by a table or a `match`:"
                f" {asked} of them ask about `{_elided(subject, 40)}`."
            )
    return None


def _chain(node: ast.If) -> list[ast.expr]:
    """The tests of an `if` and of each `elif` after it."""
    tests = [node.test]
    while (after := _elif(node)) is not None:
        node = after
        tests.append(node.test)
    return tests


def _subject(test: ast.expr) -> str | None:
    """The subject of a test: `kind` in `kind == "a"`, `kind in ("a", "b")` or `isinstance(kind, A)`."""
    match test:
        case ast.Compare(left=ast.Name() | ast.Attribute() | ast.Subscript() as left):
            return ast.unparse(left)
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[ast.Name() | ast.Attribute() as asked, _]):
            return ast.unparse(asked)
    return None


def _split_cases(function: Scored, blocks: Sequence[_Block]) -> str | None:
    """Suggests a function for each case if one `match` has most of the complexity."""
    for node, _, _ in blocks:
        if isinstance(node, ast.Match) and 2 * decisions([node]) >= function.complexity:
            return (
                f"Give the {len(node.cases)} cases of the `match` at line {node.lineno} a function each:"
                f" {decisions([node])} of its {function.complexity} are in there."
            )
    return None


def _extract(function: Scored, blocks: Sequence[_Block]) -> str | None:
    """Suggests extracting the block that splits the decisions as evenly as possible."""
    whole = function.complexity - 1
    scored = [(decisions([node]), node) for node, _, is_elif in blocks if isinstance(node, _BLOCKS) and not is_elif]
    low, high = WORTH_EXTRACTING
    worth = [(score, node) for score, node in scored if low * whole <= score <= high * whole]
    if not worth:
        return None
    score, node = min(worth, key=lambda block: (abs(2 * block[0] - whole), block[1].lineno))
    return (
        f"Extract the `{_KEYWORDS[type(node)]}` at lines {node.lineno}-{node.end_lineno} into a function:"
        f" {score} of its {function.complexity} are in there."
    )


def _cut_in_two(function: Scored) -> str | None:
    """Suggests cutting a sequence of many small blocks where half of the decisions are before the cut."""
    body = function.node.body
    while len(deciding := [node for node in body if decisions([node])]) == 1:
        body = list(_children(deciding[0]))
    whole = decisions(body)
    sums = list(accumulate(decisions([node]) for node in body))
    if not sums:
        return None
    before, last = min(zip(sums, body, strict=True), key=lambda cut: abs(2 * cut[0] - whole))
    if not WORTH_EXTRACTING[0] * whole <= before <= WORTH_EXTRACTING[1] * whole:
        return None
    return (
        f"No single block stands out: cut it in two after line {last.end_lineno},"
        f" with {before} decisions before and {whole - before} after."
    )


def _flatten(blocks: Sequence[_Block]) -> str | None:
    deepest = max(blocks, key=lambda block: (block.depth, -block.node.lineno))
    if deepest.depth < DEEP:
        return None
    return f"Leave early (return, continue) where it can: at line {deepest.node.lineno} it is {deepest.depth} deep."


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else list(names)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _elided(name: str, limit: int = 100) -> str:
    """A name, shortened in its middle if it is long, since a result has a size limit."""
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-limit // 2 :]}"
