"""The census: what is counted, how it is cut, what makes a function complex, and that the parts add up to the whole."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadTask
from core.json_values import PAYLOAD_LIMIT_BYTES
from core.tasks import Task, TaskStatus
from example_e2e import plan, reduce
from examples.census import independent_tools as tools
from examples.census.hotspot import examine
from examples.census.mccabe import outline
from examples.census.measure import Totals, measure, parse
from examples.census.merge import HOTSPOTS, Census, ChunkResult, checksum_lines, merge
from examples.census.plan import CHUNK_FILES, PlanRequest, chunks_for, cut
from examples.census.review import review_graph
from examples.census.tree import SourceFile, source_files, to_bytes, to_text
from examples.census.verify import comparison_table, is_verified, verify
from worker.authoring.context import ChildOutcome, Context, Spawn

STDLIB = Path(sysconfig.get_path("stdlib"))

NESTED = b"""
def outer(x):
    def inner():
        if x: pass
    class Local:
        if x: pass
        def method(self):
            while x: pass
    return inner
"""

DECISIONS = [
    ("pass", 1),
    ("if x: pass\n    elif y: pass\n    else: pass", 3),
    ("for a in x: pass\n    else: pass", 2),
    ("while x: pass", 2),
    ("with x: pass", 1),
    ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
    ("try: pass\n    except A: pass\n    else: pass", 3),
    ("try: pass\n    except* A: pass", 2),
    ("match x:\n        case 1: pass\n        case 2: pass", 3),
    ("match x:\n        case 1: pass\n        case _: pass", 2),
    ("match x:\n        case 1: pass\n        case y: pass", 2),
    ("match x:\n        case 1: pass\n        case _ if y: pass", 3),
    ("match x:\n        case 1 | _: pass", 1),
    ("match x:\n        case (1 as y): pass", 2),
    ("return [a for a in x if a and x or a] if x else lambda: x and x", 1),
    ("assert x and x", 1),
]


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    return root


def branchy(name: str, decisions: int) -> bytes:
    return f"def {name}(x):\n".encode() + b"    if x: pass\n" * decisions


def review(payload: dict[str, Any], note: Callable[[float, str], None] = lambda fraction, text: None) -> dict[str, Any]:
    """The agent's answer as it arrives: as JSON."""
    graph: Any = review_graph(note).compile()
    return dict(json.loads(json.dumps(graph.invoke(payload))))


def take_census(root: Path, chunks: int = 4) -> Census:
    """The whole job, the tasks one after the other."""
    spawned = plan(PlanRequest(root=to_text(os.fsencode(root)), chunks=chunks), Context("job"))
    outcomes = [
        ChildOutcome(child.task_id, child.task_type, TaskStatus.COMPLETED, review(child.payload))
        for child in spawned.children
    ]
    assert spawned.then.task_type == "census.reduce"
    return reduce(Context("job", children=outcomes))


# ---- the tree ----


def test_only_regular_python_files_outside_of_skipped_directories_and_links_are_counted(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        dict.fromkeys(
            ["a.py", "b/c.py", ".hidden.py", "b/.py", "c.pyi", "d.txt", "site-packages/x.py", "b/__pycache__/y.py"], b""
        ),
    )
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "directory.py").mkdir()
    assert [file.path for file in source_files(str(tmp_path))] == [b".hidden.py", b"a.py", b"b/.py", b"b/c.py"]
    assert tools.find(os.fsencode(tmp_path)) == [b".hidden.py", b"a.py", b"b/.py", b"b/c.py"]


def test_a_tree_that_is_itself_called_site_packages_is_counted(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "site-packages", {"a.py": b""})
    assert len(source_files(str(root))) == len(tools.find(os.fsencode(root))) == 1


def test_every_range_of_the_tree_gives_the_files_that_lie_in_it(tmp_path: Path) -> None:
    # "a-b.py" and "a.py" come before "a/b.py", since "-" and "." come before "/".
    write_tree(tmp_path, dict.fromkeys(["a/b.py", "a/z/c.py", "a-b.py", "a.py", "b/a.py", "b/c/d/e.py", "c.py"], b""))
    whole = source_files(str(tmp_path))
    for start in range(len(whole)):
        for end in range(start, len(whole)):
            first, last = to_text(whole[start].path), to_text(whole[end].path)
            assert source_files(str(tmp_path), first, last) == whole[start : end + 1]


@pytest.mark.parametrize("path", [b"a.py", b"100%.py", b"%41.py", b"caf\xc3\xa9.py", b"latin-\xe9.py", b"new\nline.py"])
def test_every_path_survives_its_way_through_json(path: bytes) -> None:
    assert to_bytes(json.loads(json.dumps(to_text(path)))) == path


def test_a_root_that_is_no_directory_is_refused_with_its_name() -> None:
    with pytest.raises(BadTask, match=r"'/no/such/tree' is not a directory"):
        source_files("/no/such/tree")


# ---- the plan ----


def test_chunks_cover_every_file_once_and_in_order(tmp_path: Path) -> None:
    files = [SourceFile(f"{number:04}.py".encode(), number * 977 % 5000) for number in range(1000)]
    chunks = cut("/root", files, 16)
    assert sum(chunk.files for chunk in chunks) == len(files)
    ends = [(chunk.first, chunk.last) for chunk in chunks]
    assert ends[0][0] == "0000.py"
    assert ends[-1][1] == "0999.py"
    assert all(int(before[1][:4]) + 1 == int(after[0][:4]) for before, after in pairwise(ends))


def test_chunks_weigh_nearly_the_same() -> None:
    files = [SourceFile(f"{number:04}.py".encode(), number * 977 % 50_000) for number in range(1000)]
    weights = []
    for chunk in cut("/root", files, 16):
        inside = files[int(chunk.first[:4]) : int(chunk.last[:4]) + 1]
        weights.append(sum(file.size for file in inside))
    assert len(weights) == 16
    assert max(weights) < 1.1 * min(weights)


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], 0),
        ([0], 1),
        ([10, 10, 10], 3),  # never more chunks than files
        ([10_000_000, 10, 10, 10], 2),  # a giant does not tear the small ones after it apart
        ([30_000_000] * 2, 2),
        ([10] * (CHUNK_FILES * 20), 20),  # so many files that their checksums would fill a result
    ],
)
def test_unequal_files_still_give_a_sensible_number_of_chunks(sizes: list[int], chunks: int) -> None:
    files = [SourceFile(f"{number:05}.py".encode(), size) for number, size in enumerate(sizes)]
    assert len(cut("/root", files, 16)) == chunks


def test_a_chunk_of_the_longest_paths_gives_a_result_within_the_limit() -> None:
    files = [SourceFile(b"\xff" * 3000 + f"{number:05}.py".encode(), 10) for number in range(200)]
    for chunk in cut("/root", files, 1):
        listed = [("0" * 64, "%FF" * 3000 + "00000.py")] * chunk.files
        assert len(json.dumps(listed)) < PAYLOAD_LIMIT_BYTES / 2


def test_more_workers_get_more_chunks_and_few_get_sixteen() -> None:
    assert [chunks_for(workers) for workers in (1, 2, 8)] == [16, 16, 64]


def test_an_empty_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match=r"no \*\.py file"):
        plan(PlanRequest(root=str(tmp_path)), Context("job"))


# ---- one file ----


@pytest.mark.parametrize(("body", "complexity"), DECISIONS)
def test_decisions_are_counted_as_ruff_does(body: str, complexity: int) -> None:
    [function] = outline(ast.parse(f"def f(x, y):\n    {body}\n")).functions
    assert function.complexity == complexity


def test_what_is_nested_counts_for_itself_and_for_what_is_around_it() -> None:
    found = outline(ast.parse(NESTED))
    assert {function.name: function.complexity for function in found.functions} == {
        "outer.inner": 2,
        "outer.Local.method": 2,
        "outer": 6,
    }
    assert found.classes == 1


def test_a_chain_of_thousands_of_elif_is_no_matter_of_recursion() -> None:
    # Given a tree as the parser would make it, if it went that deep
    chain = ast.If(ast.Name("x"), [ast.Pass()], [])
    for _ in range(5000):
        chain = ast.If(ast.Name("x"), [ast.Pass()], [chain])
    tree = ast.parse("def f(x): pass")
    assert isinstance(tree.body[0], ast.FunctionDef)
    tree.body[0].body = [chain]
    # Then it is counted
    assert outline(tree).functions[0].complexity == 5002


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", Totals(files=1)),
        (b"\n\nx = 1", Totals(files=1, lines=2, bytes=7)),
        (b"x = 1\r\n", Totals(files=1, lines=1, bytes=7)),
        (b"def f(:\n", Totals(files=1, lines=1, bytes=8, unparsable=1)),
        (b"x\0", Totals(files=1, bytes=2, unparsable=1)),
        (b"\xff", Totals(files=1, bytes=1, unparsable=1)),
        (b"(" * 300, Totals(files=1, bytes=300, unparsable=1)),
    ],
)
def test_a_file_without_functions_has_these_totals(source: bytes, expected: Totals) -> None:
    assert measure(b"a.py", source, parse(source)).totals == expected


def test_a_file_that_is_not_utf8_has_functions_but_like_for_ruff_no_complexity() -> None:
    source = b"# coding: latin-1\n# \xe9\n" + branchy("f", 20)
    totals = measure(b"a.py", source, parse(source)).totals
    assert (totals.functions, totals.scored, totals.complex) == (1, 0, 0)


@pytest.mark.filterwarnings("error")
def test_a_doubtful_escape_counts_as_parsable_even_where_warnings_are_errors() -> None:
    assert parse(b'x = "\\d"') is not None


# ---- hot spots ----


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [
        ("def f(x):\n" + "    def g():\n" + "        if x: pass\n" * 12, "Move `g` out of it: 13 of its 14"),
        (
            "def f(x):\n    if x == 0: pass\n" + "".join(f"    elif x == {n}: pass\n" for n in range(12)),
            "Replace the 13 branches from line 2 by a table or a `match`: 13 of them ask about `x`",
        ),
        (
            "def f(x):\n    match x:\n" + "".join(f"        case {n}: pass\n" for n in range(12)),
            "Give the 12 cases of the `match` at line 2 a function each",
        ),
        (
            "def f(x):\n" + "    if x: pass\n" * 7 + "    for a in x:\n" + "        if a: pass\n" * 5,
            "Extract the `for` at lines 9-14 into a function: 6 of its 14",
        ),
        ("def f(x):\n" + "    if x: pass\n" * 12, "cut it in two after line 7, with 6 decisions before and 6 after"),
    ],
)
def test_a_suggestion_names_the_place_to_begin(source: str, suggestion: str) -> None:
    spot = examine("a.py", outline(ast.parse(source)).functions[-1])
    assert suggestion in spot.suggestion


def test_the_reason_is_a_sum_that_is_right_for_every_complex_function_of_the_standard_library() -> None:
    examined = 0
    for path in STDLIB.glob("*.py"):
        tree = parse(path.read_bytes())
        for function in outline(tree).functions if tree else ():
            if function.complexity > 10:
                spot = examine(path.name, function)
                total, terms = re.match(r"(\d+) = (.*?);", spot.why).groups()  # type: ignore[union-attr]
                assert int(total) == spot.complexity == sum(int(term.split()[0]) for term in terms.split(" + ")), spot
                examined += 1
    assert examined > 100


# ---- the whole ----


def awkward_tree(root: Path) -> Path:
    return write_tree(
        root,
        {
            "-x.py": b"def f(): pass\n",
            "back\\slash.py": b"class A: pass\n",
            "new\nline.py": b"x = 1\n",
            "carriage\rreturn.py": b"x = 1",
            "100%.py": NESTED,
            "sp ace/'quote'.py": branchy("g", 12),
            "caf\u00e9.py": branchy("h", 30) + b"# noqa: C901\n",
            "latin.py": b"# coding: latin-1\n# \xe9\n" + branchy("i", 20),
            "broken.py": b"def f(:\n",
            "newer.py": b"\xef\xbb\xbfdef with_bom(): pass\n",
            "empty.py": b"",
            "ruff.toml": b'exclude = ["*.py"]\n',
            ".gitignore": b"*.py\n",
        },
    )


def test_every_total_of_an_awkward_tree_is_confirmed_by_independent_tools(tmp_path: Path) -> None:
    root = awkward_tree(tmp_path)
    (root / os.fsdecode(b"bytes-\xff.py")).write_bytes(branchy("j", 11))
    comparisons = verify(to_text(os.fsencode(root)), take_census(root))
    assert is_verified(comparisons), "\n".join(comparison_table(comparisons))
    assert {comparison.total for comparison in comparisons if comparison.equal} >= {
        "files",
        "lines",
        "bytes",
        "functions",
        "inputs_sha256",
    }


@pytest.mark.parametrize("wrong", ["files", "lines", "bytes", "functions", "classes", "unparsable", "complex"])
def test_a_wrong_total_is_not_verified(tmp_path: Path, wrong: str) -> None:
    if wrong == "complex" and not has_ruff():
        pytest.skip("ruff is not installed")
    census = take_census(awkward_tree(tmp_path))
    off_by_one = census.totals.model_copy(update={wrong: getattr(census.totals, wrong) + 1})
    comparisons = verify(str(tmp_path), census.model_copy(update={"totals": off_by_one}))
    assert [comparison.total for comparison in comparisons if comparison.equal is False] == [wrong]
    assert not is_verified(comparisons)


def test_a_file_that_changed_after_the_census_is_noticed(tmp_path: Path) -> None:
    census = take_census(awkward_tree(tmp_path))
    (tmp_path / "empty.py").write_bytes(b"#")
    unequal = [comparison.total for comparison in verify(str(tmp_path), census) if comparison.equal is False]
    assert unequal == ["bytes", "inputs_sha256"]


def test_the_census_of_a_part_of_the_standard_library_is_confirmed_function_by_function() -> None:
    comparisons = verify(str(STDLIB / "asyncio"), take_census(STDLIB / "asyncio"))
    assert is_verified(comparisons), "\n".join(comparison_table(comparisons))


def test_the_census_does_not_depend_on_how_the_tree_is_cut_or_in_which_order_the_parts_come(tmp_path: Path) -> None:
    root = awkward_tree(tmp_path)
    one, many = take_census(root, chunks=1), take_census(root, chunks=100)
    assert many.chunks > one.chunks
    assert one.model_copy(update={"chunks": many.chunks}) == many
    [first, *others] = [ChunkResult.model_validate(review(chunk.model_dump())) for chunk in cut_of(root)]
    assert merge([first, *others]) == merge([*reversed(others), first])


def cut_of(root: Path) -> Any:
    return cut(str(root), source_files(str(root)), 5)


def test_the_agent_examines_each_complex_function_and_reports_the_worst_first(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{n:02}.py": branchy(f"f{n}", n) for n in range(HOTSPOTS + 20)})
    spots = take_census(tmp_path, chunks=3).hotspots
    assert len(spots) == HOTSPOTS
    assert [spot.complexity for spot in spots] == sorted((n + 1 for n in range(20, HOTSPOTS + 20)), reverse=True)
    assert spots[0].path == "69.py"


def test_the_agent_tells_how_far_it_is(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{n}.py": b"#" * 200_000 for n in range(4)})
    [chunk] = cut(str(tmp_path), source_files(str(tmp_path)), 1)
    told: list[str] = []
    review(chunk.model_dump(), lambda fraction, text: told.append(f"{fraction:.2f} {text}"))
    assert told == ["0.50 2 of 4 files", "1.00 4 of 4 files"]


def test_only_totals_checksums_and_hot_spots_leave_the_agent(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": NESTED})
    [chunk] = cut(str(tmp_path), source_files(str(tmp_path)), 1)
    assert set(review(chunk.model_dump())) == {"totals", "checksums", "hotspots"}


def test_a_tree_that_changes_between_plan_and_review_fails_with_the_reason(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": b"", "c.py": b""})
    [chunk] = cut(str(tmp_path), source_files(str(tmp_path)), 1)
    write_tree(tmp_path, {"b.py": b""})
    with pytest.raises(BadTask, match=r"2 files were planned .* 3 found now"):
        review(chunk.model_dump())


def test_a_plan_gives_reviews_and_then_the_reduction(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{n}.py": b"" for n in range(40)})
    spawned = plan(PlanRequest(root=str(tmp_path), chunks=16), Context("job"))
    assert isinstance(spawned, Spawn)
    assert {child.task_type for child in spawned.children} == {"census.review"}
    assert len(spawned.children) == 16
    assert all(isinstance(child, Task) for child in spawned.children)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_checksum_lines_are_what_sha256sum_prints(tmp_path: Path) -> None:
    awkward_tree(tmp_path)
    paths = [file.path for file in source_files(str(tmp_path))]
    printed = subprocess.run(["sha256sum", "--", *paths], cwd=tmp_path, capture_output=True, check=True).stdout
    digests = [line.removeprefix(b"\\")[:64].decode() for line in printed.splitlines()]
    assert checksum_lines(zip(digests, map(to_text, paths), strict=True)) == printed


def has_ruff() -> bool:
    try:
        return bool(tools.ruff_command())
    except tools.ToolMissing:
        return False
