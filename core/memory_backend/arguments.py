"""Parses the arguments of commands. Errors have the same text as those of the server."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from core.memory_backend.keyspace import StreamId
from core.redis_client import ResponseError

__all__ = [
    "float_of", "integer_of", "pairs_of", "score_bound", "stream_id_of", "stream_id_text", "syntax_error",
    "wrong_number",
]  # fmt: skip

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_STREAM_ID = re.compile(rb"([0-9]{1,20})(?:-([0-9]{1,20}))?")
NUMBER_LIMIT = 2**63
NOT_AN_INTEGER = "ERR value is not an integer or out of range"


def syntax_error() -> ResponseError:
    return ResponseError("ERR syntax error")


def wrong_number(name: str) -> ResponseError:
    return ResponseError(f"ERR wrong number of arguments for '{name.lower()}' command")


def integer_of(text: bytes, refusal: str = NOT_AN_INTEGER) -> int:
    number = int(text) if _INTEGER.fullmatch(text) else NUMBER_LIMIT
    if not -NUMBER_LIMIT <= number < NUMBER_LIMIT:
        raise ResponseError(refusal)
    return number


def float_of(text: bytes, refusal: str = "ERR value is not a valid float") -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ResponseError(refusal)
    return number


def score_bound(text: bytes) -> tuple[float, bool]:
    """A bound of a range by score, and whether the bound itself is excluded."""
    refusal = "ERR min or max is not a float"
    return (float_of(text[1:], refusal), True) if text[:1] == b"(" else (float_of(text, refusal), False)


def stream_id_of(text: bytes, *, number: int = 0) -> StreamId:
    """The id of a stream entry. If its second half is missing, that is `number`."""
    found = _STREAM_ID.fullmatch(text)
    if found is None:
        raise ResponseError("ERR Invalid stream ID specified as stream command argument")
    return int(found[1]), int(found[2]) if found[2] is not None else number


def stream_id_text(entry_id: StreamId) -> bytes:
    return b"%d-%d" % entry_id


def pairs_of(name: str, parts: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    if not parts or len(parts) % 2:
        raise wrong_number(name)
    return list(zip(parts[::2], parts[1::2], strict=True))
