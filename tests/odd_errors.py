"""Exceptions that are hard to tell of: what is asked of them raises, exits, or is not what it seems."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = ["ODD_ERRORS"]


def no() -> NoReturn:
    raise RuntimeError("no")


@dataclass(frozen=True)
class Frozen(Exception):
    reason: str = "enough"


@dataclass(frozen=True, slots=True)
class FrozenSlots(Exception):
    reason: str = "enough"


class BadStr(Exception):
    def __str__(self) -> str:
        no()


class ExitingStr(Exception):
    def __str__(self) -> str:
        sys.exit(3)


class EndlessStr(Exception):
    def __str__(self) -> str:
        return str(self)


class BadRepr(Exception):
    def __repr__(self) -> str:
        sys.exit(3)


class BadSetattr(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        sys.exit(3)


class BadGetattribute(Exception):
    def __getattribute__(self, name: str) -> Any:
        sys.exit(3)


class BadNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        no()


class Text(str):
    def encode(self, *_: Any) -> bytes:
        sys.exit(3)

    def __getitem__(self, _: Any) -> str:
        no()


class OddText(Exception):
    def __str__(self) -> str:
        return Text("enough")


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        sys.exit(3)


class BadClass(Exception, metaclass=Nameless): ...


class Bare(BaseException): ...


#: By the name of their class.
ODD_ERRORS: dict[str, Callable[[], BaseException]] = {
    "Frozen": Frozen,
    "FrozenSlots": FrozenSlots,
    "BadStr": BadStr,
    "ExitingStr": ExitingStr,
    "EndlessStr": EndlessStr,
    "BadRepr": lambda: BadRepr(BadRepr()),
    "BadSetattr": BadSetattr,
    "BadGetattribute": BadGetattribute,
    "BadNotes": BadNotes,
    "OddText": OddText,
    "BadClass": BadClass,
    "Bare": Bare,
    "GeneratorExit": GeneratorExit,
    "x" * 200: type("x" * 100_000, (Exception,), {}),
}
