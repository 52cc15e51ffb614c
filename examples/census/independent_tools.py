"""The tools that verify the census: find, sort, cat, wc, sha256sum, ruff and a second count.

Each runs as a process in the root of the tree, on NUL-separated relative paths, in the C locale. None uses code of the
census.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import orjson

from core.errors import WorldError

__all__ = ["RuffScores", "SecondCount", "ToolFailed", "ToolMissing", "find", "ruff_command", "ruff_scores"]
__all__ += ["ruff_version", "second_count", "sha256sum", "wc"]

RECOUNT = Path(__file__).with_name("recount.py")
TOO_COMPLEX = re.compile(r"`(?P<name>.*)` is too complex \((?P<score>\d+) > 0\)")


class ToolMissing(WorldError):
    """The tool is not installed here, so nothing was compared with it."""


class ToolFailed(WorldError):
    """The tool ended with an error; the message has the end of its output."""


@dataclass(frozen=True, slots=True)
class SecondCount:
    """The result of `recount.py`."""

    functions: int
    classes: int
    unparsable: frozenset[bytes]  #: paths


@dataclass(frozen=True, slots=True)
class RuffScores:
    """The result of ruff."""

    scores: list[tuple[bytes, str, int]]  #: path, name and complexity of each function
    refused: frozenset[bytes]  #: files that ruff cannot parse


def find(root: bytes) -> list[bytes]:
    """The paths of the files in the scope of the census, sorted by `sort` in the C locale."""
    skipped = ["(", "-name", "site-packages", "-o", "-name", "__pycache__", ")", "-prune"]
    listed = _pipe(root, b"", ["find", ".", *skipped, "-o", "-type", "f", "-name", "*.py", "-print0"], ["sort", "-z"])
    return [path.removeprefix(b"./") for path in listed.split(b"\0")[:-1]]


def wc(root: bytes, paths: Sequence[bytes]) -> tuple[int, int]:
    """Newlines and bytes of all files together."""
    lines, size = _pipe(root, _ended(paths), ["xargs", "-0", "cat", "--"], ["wc", "-l", "-c"]).split()
    return int(lines), int(size)


def sha256sum(root: bytes, paths: Sequence[bytes]) -> str:
    """The sha256 of what `sha256sum` prints for the files, in this order."""
    return _pipe(root, _ended(paths), ["xargs", "-0", "sha256sum", "--"], ["sha256sum"]).split()[0].decode()


def second_count(root: bytes, paths: Sequence[bytes]) -> SecondCount:
    """The count of plain loops in new interpreters, one for each processor."""
    parts = [paths[start :: os.cpu_count() or 1] for start in range(os.cpu_count() or 1)]
    command = [sys.executable, "-I", str(RECOUNT)]
    with ThreadPoolExecutor(len(parts)) as pool:
        counts = [orjson.loads(out) for out in pool.map(lambda part: _pipe(root, _ended(part), command), parts)]
    return SecondCount(
        functions=sum(count["functions"] for count in counts),
        classes=sum(count["classes"] for count in counts),
        unparsable=frozenset(part[at] for part, count in zip(parts, counts, strict=True) for at in count["unparsable"]),
    )


def ruff_command() -> list[str]:
    """The command that runs ruff, preferably that of this interpreter. Raises ToolMissing when there is none."""
    beside = Path(sys.executable).with_name("ruff")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    if find_spec("ruff") is not None:
        return [sys.executable, "-m", "ruff"]
    if (on_path := shutil.which("ruff")) is not None:
        return [on_path]
    raise ToolMissing("ruff is not installed")


def ruff_version(ruff: Sequence[str]) -> str:
    """The version of ruff, such as `ruff 0.17.5`."""
    return _pipe(b".", b"", [*ruff, "--version"]).decode().strip()


def ruff_scores(ruff: Sequence[str], root: bytes, paths: Sequence[bytes]) -> RuffScores:
    """The complexity of every function, by ruff's rule C901 with a limit that every function exceeds."""
    check = ["check", "--isolated", "--no-cache", "--ignore-noqa", "--exit-zero", "--output-format", "json-lines"]
    rule = ["--select", "C901", "--config", "lint.mccabe.max-complexity=0"]
    printed = _pipe(root, _ended(paths), ["xargs", "-0", *ruff, *check, *rule, "--"])
    # ruff prints absolute names, with a mark in place of each byte that is not UTF-8.
    base = os.path.realpath(root)
    known = {os.path.join(base, path).decode(errors="replace"): path for path in paths}
    scores: list[tuple[bytes, str, int]] = []
    doubtful: set[bytes] = set()
    for line in printed.splitlines():
        finding = orjson.loads(line)
        path = known[finding["filename"]]
        if finding["code"] == "C901" and (told := TOO_COMPLEX.fullmatch(finding["message"])):
            scores.append((path, told["name"], int(told["score"])))
        else:
            doubtful.add(path)
    # It also reports doubtful syntax in files that it can parse; for other files it reports nothing else.
    return RuffScores(scores, frozenset(doubtful - {path for path, _, _ in scores}))


def _ended(paths: Sequence[bytes]) -> bytes:
    return b"".join(path + b"\0" for path in paths)


def _pipe(root: bytes, given: bytes, *commands: Sequence[str]) -> bytes:
    """The output of a pipeline of commands, whose first one reads `given`.

    Raises ToolMissing or ToolFailed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUFF_")}
    with ExitStack() as open_ones:
        first = open_ones.enter_context(tempfile.TemporaryFile())
        complaints = open_ones.enter_context(tempfile.TemporaryFile())
        first.write(given)
        first.seek(0)
        running: list[subprocess.Popen[bytes]] = []
        source: IO[bytes] = first
        for command in commands:
            process = _start(command, root, source, complaints, environment)
            running.append(open_ones.enter_context(process))
            source.close()  # so that a process ends when its reader has ended
            assert process.stdout is not None
            source = process.stdout
        printed = source.read()
        for process, command in zip(running, commands, strict=True):
            if process.wait() != 0:
                complaints.seek(0)
                words = complaints.read().decode(errors="replace").strip()[-500:]
                raise ToolFailed(f"{command[0]} ended with {process.returncode}: {words}")
        return printed


def _start(
    command: Sequence[str], root: bytes, source: IO[bytes], complaints: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            cwd=root,
            env={**environment, "LC_ALL": "C"},
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
    except FileNotFoundError:
        raise ToolMissing(f"{command[0]} is not installed") from None
