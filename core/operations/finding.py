"""What one check of an installation has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: Literal["ok", "warn", "fail"]
    what: str
    cure: str = ""  #: of a check that is not ok
    exit_code: int = 0  #: exit code of a command that fails because of it
