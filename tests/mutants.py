"""What has become of the mutants of each module: `python -m tests.mutants`, after `make mutants`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

__all__ = ["figures"]

ROOT = Path(__file__).parent.parent
#: How mutmut notes that all tests passed, or that none runs the line at all.
SURVIVED = frozenset({0, 5, 33})


def figures() -> dict[str, Counter[str]]:
    """By module: how many of its mutants `died`, `survived`, and were `not tried`."""
    found: dict[str, Counter[str]] = {}
    for path in sorted((ROOT / "mutants").rglob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"].values()
        module = str(path.relative_to(ROOT / "mutants")).removesuffix(".py.meta").replace("/", ".")
        found[module] = Counter(
            "not tried" if code is None else "survived" if code in SURVIVED else "died" for code in codes
        )
    return found


def main() -> None:
    of_all: Counter[str] = Counter()
    for module, counts in figures().items():
        of_all += counts
        print(line(module, counts))
    print(line("all", of_all))


def line(name: str, counts: Counter[str]) -> str:
    tried = counts["died"] + counts["survived"]
    share = f"{counts['died'] / tried:6.1%}" if tried else "     -"
    left = f", {counts['not tried']} not tried" if counts["not tried"] else ""
    return f"{share}  {name}: {counts['died']} of {tried} died{left}"


if __name__ == "__main__":
    main()
