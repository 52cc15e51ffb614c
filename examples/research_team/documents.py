"""The documents of this repository, and what is found in them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from examples.offline_model import COMMON

__all__ = ["passages_about"]

DOCS = Path(__file__).parents[2] / "docs"
SHOWN_CHARACTERS = 300


@cache
def _passages() -> list[tuple[str, str]]:
    """Page and text of each paragraph."""
    return [
        (page.name, " ".join(paragraph.split()))
        for page in sorted(DOCS.glob("*.md"))
        for paragraph in re.split(r"\n\s*\n|\n(?=[*|#])", page.read_text())
        if len(paragraph) > 60
    ]


@cache
def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def passages_about(topic: str, count: int) -> list[str]:
    """The passages that share most, and the rarest, words with a topic, the best first; of each page only one."""
    words = _words(topic) - COMMON
    rarity = {word: 1 / (1 + sum(word in _words(text) for _, text in _passages())) for word in words}

    def worth(passage: tuple[str, str]) -> float:
        return sum(rarity[word] for word in words & _words(passage[1]))

    best: dict[str, str] = {}
    for page, text in sorted(_passages(), key=worth, reverse=True):
        best.setdefault(page, f"{text[:SHOWN_CHARACTERS]} ({page})")
    return list(best.values())[:count]
