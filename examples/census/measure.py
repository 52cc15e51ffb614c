"""Measures one file for the census."""

from __future__ import annotations

import ast
import hashlib
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict

from examples.census.mccabe import Scored, outline

__all__ = ["COMPLEX_ABOVE", "Measured", "Totals", "fingerprint", "measure", "parse"]

#: ruff's own default for C901.
COMPLEX_ABOVE = 10

#: The modulus for sums of fingerprints; see `fingerprint`.
_WRAP = 1 << 256
_parsing = threading.Lock()


class Totals(BaseModel):
    """The totals of a set of files (see the package's docstring). Those of disjoint sets can be added in any order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: int = 0
    lines: int = 0
    bytes: int = 0
    functions: int = 0
    classes: int = 0
    unparsable: int = 0
    complex: int = 0
    scored: int = 0  #: number of functions with a complexity: those in files that parse and are UTF-8
    scores: str = "0"  #: `fingerprint` of the complexities of these functions

    def __add__(self, other: Self) -> Totals:
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Totals(**counts, scores=_add_fingerprints(self.scores, other.scores))


_COUNTS = [name for name, info in Totals.model_fields.items() if info.annotation in (int, "int")]


@dataclass(frozen=True, slots=True)
class Measured:
    """The measures of one file."""

    totals: Totals
    sha256: str
    functions: Sequence[Scored]  #: its functions with a complexity


def parse(source: bytes) -> ast.Module | None:
    """The syntax tree of a file; None if `ast.parse` does not accept its bytes."""
    # A doubtful escape is a warning, which must not change a count even where warnings are errors. The filter affects
    # the whole process, hence the lock. It costs nothing, since parsing holds the interpreter lock anyway.
    with _parsing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def measure(path: bytes, source: bytes, tree: ast.Module | None) -> Measured:
    """The measures of the file at `path`, from its bytes and the result of `parse`. A pure function."""
    found = outline(tree) if tree is not None else None
    functions = found.functions if found else []
    scored = functions if _is_utf8(source) else []
    totals = Totals(
        files=1,
        lines=source.count(b"\n"),
        bytes=len(source),
        functions=len(functions),
        classes=found.classes if found else 0,
        unparsable=int(tree is None),
        complex=sum(function.complexity > COMPLEX_ABOVE for function in scored),
        scored=len(scored),
        scores=fingerprint([(path, function.node.name, function.complexity) for function in scored]),
    )
    return Measured(totals, hashlib.sha256(source).hexdigest(), scored)


def fingerprint(scores: Sequence[tuple[bytes, str, int]]) -> str:
    """A number, in hexadecimal, that depends on each (path, function name, complexity), and not on their order.

    Fingerprints of disjoint sets can be added. They detect accidents, but not forgery.
    """
    digests = (hashlib.sha256(b"%s\0%s\0%d" % (path, name.encode(), score)).digest() for path, name, score in scores)
    return f"{sum(int.from_bytes(digest) for digest in digests) % _WRAP:x}"


def _add_fingerprints(left: str, right: str) -> str:
    return f"{(int(left, 16) + int(right, 16)) % _WRAP:x}"


def _is_utf8(source: bytes) -> bool:
    try:
        source.decode()
    except UnicodeDecodeError:
        return False
    return True
