"""Values of programs as JSON: they come back equal, or are refused with the reason.

orjson writes the types of JSON, UUIDs and enums: that is nearly everything, and costs nothing more. pydantic writes all
other objects, by their own class and not by the one that their field declares. The result is then read back, since it
need not equal the value any more: it may have a key twice, null for nan, or an object without some of its fields.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Set
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from itertools import zip_longest
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema, to_json

from core.errors import BadTask

__all__ = [
    "DEPTH_LIMIT",
    "PAYLOAD_LIMIT_BYTES",
    "TooLarge",
    "Unequal",
    "as_json",
    "check_limits",
    "check_plain",
    "payload_json",
    "readable",
    "result_json",
    "unique_members",
]

#: Largest payload or result, as JSON. Larger data belongs in a store of its own, with a reference in the payload.
PAYLOAD_LIMIT_BYTES = 256 * 1024

#: Deepest nesting of lists and objects in a payload or result.
DEPTH_LIMIT = 64
#: The same in what holds a payload, beside other values. What writes JSON here gives up at about 250.
PLAIN_DEPTH_LIMIT = 100

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")

#: By itself orjson would leave out the fields of a dataclass whose names begin with an underscore, write 10 ms of a
#: time as 100, and round the seconds of an offset.
_PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_MANY = (list, tuple, set, frozenset)
_WHOLE = frozenset({str, int, bool, type(None)})  # nothing of these can be lost
_as_python = SchemaSerializer(core_schema.any_schema()).to_python


class TooLarge(BadTask):
    """A payload or result has more bytes than it may have."""


class Unequal(ValueError):
    """The value would not come back as it is. The message says why, and follows the name of the value."""


_NO_NUMBER = "holds nan or infinity, which JSON does not have. Use None or a string in its place."


def payload_json(what: str, value: object) -> bytes:
    """Data of a program as JSON. `what` names it in errors.

    Pydantic models (which LangChain messages are) and dataclasses are dumped, at any depth. Raises BadTask when it is
    no JSON, larger than PAYLOAD_LIMIT_BYTES or nested deeper than DEPTH_LIMIT. It is called wherever data of users
    enters, so that data inside the system is known to be good."""
    cure = "Use dicts, lists, strings, numbers, booleans and None."
    return _checked(what, value, _of_model, _PLAIN, cure)


def result_json(value: object) -> bytes:
    """What a handler returned as JSON.

    Pydantic models (which LangChain messages are) and dataclasses are dumped, at any depth; keys that are numbers,
    dates or None become strings. Raises as `payload_json`."""
    cure = "Return dicts, lists, strings, numbers, booleans, None, pydantic models or dataclasses."
    return _checked("result", value, _of_object, _PLAIN | orjson.OPT_NON_STR_KEYS, cure)


def unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members, for a parser of JSON. Raises Unequal when two have the same key."""
    value = dict(members)
    if len(value) < len(members):
        keys = [key for key, _ in members]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Unequal(f"has the key {twice[:80]!r} twice in one object: only one of the values would be left.")
    return value


def _checked(what: str, value: object, default: Callable[[Any], Any], option: int, cure: str) -> bytes:
    """The JSON; `default` and `option` are for values that are not plain."""
    plain = True
    try:
        try:
            encoded = orjson.dumps(value, option=_PLAIN)
        except TypeError:
            plain = False
            encoded = orjson.dumps(value, default=default, option=option)
        if b"null" in encoded and _holds_no_number(value):
            raise Unequal(_NO_NUMBER)
        check_limits(what, encoded)
        if not plain and orjson.dumps(orjson.loads(encoded)) != encoded:
            _decoder.decode(encoded.decode())  # its error says which key is there twice
    except TypeError as error:
        if isinstance(error.__cause__, Unequal):
            raise BadTask(f"{what} {error.__cause__}") from None
        cause = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise BadTask(f"{what} is not JSON: {cause}. {cure}") from None
    except Unequal as error:
        raise BadTask(f"{what} {error}") from None
    return encoded


def _of_model(value: Any) -> Any:
    if not is_dataclass(value) and not isinstance(value, BaseModel | date | time):
        raise TypeError(type(value).__name__)
    return _of_object(value)


def _of_object(value: Any) -> Any:
    if isinstance(value, date | time):
        return value.isoformat()
    tree = _decoder.decode(to_json(value, polymorphic_serialization=True).decode())
    _check_whole(value, _told(value), tree)
    return tree


def _told(value: Any) -> Any:
    """A value as pydantic dumps it to Python's own types, where nan is still nan and a key is what it was."""
    return _as_python(value, by_alias=False, warnings=False, polymorphic_serialization=True)


def _refused(_: str) -> None:
    raise Unequal(_NO_NUMBER)


_decoder = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=_refused)


def _check_whole(value: Any, told: Any, tree: Any) -> None:
    """Whether `tree`, JSON that was read back, is all of an object. Raises Unequal."""
    while isinstance(told, Enum):
        value, told = told.value, _told(told.value)
    if tree is None and _is_no_number(told):
        raise Unequal(_NO_NUMBER)
    if isinstance(told, dict):
        if any(map(_is_no_number, told)):
            raise Unequal(_NO_NUMBER)
        members = _members(value)
        if not isinstance(value, BaseModel) and is_dataclass(value):
            _check_fields(type(value), members.keys(), told.keys())
        parts = [members.get(key) for key in told]
        told = list(told.values())
        tree = list(tree.values()) if isinstance(tree, dict) else []
    elif isinstance(told, _MANY):
        parts = list(value) if isinstance(value, (list, tuple)) else []
    else:
        return
    # Everything is in the order of the JSON, unless a serializer of the author's changes it.
    alike = isinstance(tree, list) and len(tree) == len(told)
    for part, told_of_it, tree_of_it in zip_longest(parts, told, tree if alike else (), fillvalue=...):
        kind = type(told_of_it)
        empty = kind in (list, dict) and kind is type(part) and not told_of_it
        if kind not in _WHOLE and not empty:
            _check_whole(part, told_of_it, tree_of_it)


def _members(value: Any) -> dict[Any, Any]:
    if isinstance(value, BaseModel):
        more = value.__pydantic_extra__
        return {**value.__dict__, **more} if more else value.__dict__
    if is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    return value if isinstance(value, dict) else {}


def _check_fields(kind: type, own: Set[str], told: Set[str]) -> None:
    """A plain dataclass has no serializer of its own, so pydantic uses that of the class which the field declares."""
    for base in kind.__mro__[1:] if own != told else ():
        if is_dataclass(base) and told == {field.name for field in fields(base)}:
            lost = ", ".join(sorted(own - told))
            raise Unequal(
                f"holds a {kind.__name__} in a field of {base.__name__}, and would lose its {lost}. Declare"
                f" SerializeAsAny[{base.__name__}], or make {kind.__name__} a pydantic dataclass."
            )


def _holds_no_number(value: object) -> bool:
    """Whether nan or infinity is anywhere in lists, dicts and enums: as JSON it would silently become null."""
    left = [value]
    while left:
        part = left.pop()
        while isinstance(part, Enum):
            part = part.value
        if _is_no_number(part):
            return True
        if isinstance(part, dict):
            left += part.keys()
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
    return False


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def as_json(value: Any) -> bytes:
    """Any value as JSON, for readers: messages and other models are their fields, bytes that are no text are in base64,
    and what else is no JSON is its `repr`. Numbers that JSON has not are null, and what is nested deeper than 255 is
    left out."""
    try:
        return _shown(value)
    except ValueError:
        return _shown(value, bytes_mode="base64")


def _shown(value: Any, bytes_mode: Literal["utf8", "base64"] = "utf8") -> bytes:
    return to_json(value, fallback=repr, serialize_unknown=True, inf_nan_mode="null", bytes_mode=bytes_mode)


def readable(encoded: bytes) -> Any:
    """The value of JSON that may hold integers of any length. Those that no float of 64 bits comes near, so that many a
    parser refuses them, are their text. Raises ValueError: it is no JSON."""
    try:
        return orjson.loads(encoded)
    except orjson.JSONDecodeError:
        return json.loads(encoded, parse_int=_whole_or_text)


def _whole_or_text(digits: str) -> Any:
    try:
        return orjson.loads(digits)
    except orjson.JSONDecodeError:
        return digits


def check_plain(value: object) -> None:
    """Raises ValueError for what a parser of JSON has read and nobody can write as JSON again: half of a character, a
    number that is none or has more than 64 bits, lists and objects nested too deeply. The message ends a sentence."""
    try:
        encoded = orjson.dumps(value)
    except TypeError as error:
        cause = "half of a character" if "UTF-8" in str(error) else "a number of more than 64 bits"
        if "ecursion" not in str(error):
            raise ValueError(f"holds {cause}, which cannot be kept; leave it out") from None
        encoded = b""
    if not encoded or _nesting_exceeds(encoded, PLAIN_DEPTH_LIMIT):
        raise ValueError(f"nests lists and objects deeper than {PLAIN_DEPTH_LIMIT}; flatten it")
    if b"null" in encoded and _holds_no_number(value):
        raise ValueError(_NO_NUMBER)


def check_limits(what: str, encoded: bytes) -> None:
    """Raises BadTask for JSON that is larger, or nested deeper, than a payload or result may be."""
    if len(encoded) > PAYLOAD_LIMIT_BYTES:
        raise TooLarge(
            f"{what} has {len(encoded)} bytes as JSON, over the limit of {PAYLOAD_LIMIT_BYTES}."
            " Store it elsewhere and pass a reference."
        )
    if _nesting_exceeds(encoded, DEPTH_LIMIT):
        raise BadTask(f"{what} nests lists and objects deeper than {DEPTH_LIMIT}; flatten it.")


def _nesting_exceeds(encoded: bytes, limit: int) -> bool:
    """Whether JSON nests deeper than `limit`: strings are cut out, then the innermost pairs, level by level."""
    if encoded.count(b"[") + encoded.count(b"{") <= limit:
        return False
    brackets = _STRINGS.sub(b"", encoded).translate(_ALL_SQUARE, _NOT_BRACKETS)
    for _ in range(limit):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
