"""Every value comes back equal as JSON, or is refused in words: nested ones of all types that a program may use.

Each value is drawn together with what has to come back, which is built beside it and knows nothing of how it is done.
"""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import hypothesis.strategies as st
import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, ConfigDict, TypeAdapter

from core.errors import BadTask
from core.json_values import payload_json, result_json
from core.tasks import Task, as_received, checked
from worker.authoring.context import Context
from worker.authoring.registry import NO_DEFAULT, Handler

NAN, INFINITY = math.nan, math.inf


class Drawn(NamedTuple):
    """A value, and what has to come back; or it is to be refused, and whatever holds it."""

    value: Any
    back: Any
    refused: bool = False


class Animal(BaseModel):
    name: str = "a"


class Cat(Animal):
    lives: Any = 9


@dataclasses.dataclass
class Plain:
    left: Any = None
    _right: Any = None


@pydantic.dataclasses.dataclass
class Shape:
    size: int = 1


@pydantic.dataclasses.dataclass
class Square(Shape):
    side: Any = 2


class Zoo(BaseModel):
    first: Animal
    others: list[Animal] = []
    by_name: dict[str, Animal] = {}
    shape: Shape = Shape()
    anything: Any = None
    by_key: dict[float | str, Any] = {}
    ratio: float = 0.0


class Point(NamedTuple):
    x: Any
    y: Any


def same(value: Any) -> Drawn:
    return Drawn(value, value)


def written(value: Any, text: str) -> Drawn:
    return Drawn(value, text)


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
).map(same)
OTHERS: SearchStrategy[Drawn] = st.one_of(
    st.dates().map(lambda day: written(day, day.isoformat())),
    st.datetimes().map(lambda moment: written(moment, moment.isoformat())),
    st.times().map(lambda moment: written(moment, moment.isoformat())),
    st.uuids().map(lambda value: written(value, str(value))),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda value: written(value, str(value))),
)
NOT_JSON = st.sampled_from([NAN, INFINITY, -INFINITY, 2**64, -(2**63) - 1, "\ud800", object()]).map(
    lambda value: Drawn(value, None, refused=True)
)
KEYS = st.one_of(
    st.sampled_from(["a", "1", "2.5", "inf", "nan", "None", "null", 1, 2.5, INFINITY, -INFINITY]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)


def a_list(parts: list[Drawn], kind: Any = list) -> Drawn:
    return Drawn(kind(part.value for part in parts), [part.back for part in parts], any(part.refused for part in parts))


def a_dict(parts: dict[Any, Drawn]) -> Drawn:
    keys = [key for key in parts if isinstance(key, str) or math.isfinite(key)]
    back = {str(key): parts[key].back for key in keys}
    refused = len(back) < len(parts) or any(part.refused for part in parts.values())
    return Drawn({key: part.value for key, part in parts.items()}, back, refused)


def an_enum(part: Drawn) -> Drawn:
    return Drawn(Enum("Drawn", {"ONE": part.value}).ONE, part.back, part.refused)  # type: ignore[attr-defined]


def a_plain(left: Drawn, right: Drawn) -> Drawn:
    back = {"left": left.back, "_right": right.back}
    return Drawn(Plain(left.value, right.value), back, left.refused or right.refused)


def a_point(x: Drawn, y: Drawn) -> Drawn:
    return Drawn(Point(x.value, y.value), [x.back, y.back], x.refused or y.refused)


def a_zoo(lives: Drawn, side: Drawn, anything: Drawn, by_key: dict[Any, Drawn], ratio: float) -> Drawn:
    cat, cat_back = Cat(lives=lives.value), {"name": "a", "lives": lives.back}
    drawn_keys = a_dict(by_key)
    zoo = Zoo.model_construct(
        first=cat, others=[Animal(), cat], by_name={"c": cat}, shape=Square(side=side.value), anything=anything.value,
        by_key=drawn_keys.value, ratio=ratio,
    )  # fmt: skip
    back = {
        "first": cat_back, "others": [{"name": "a"}, cat_back], "by_name": {"c": cat_back},
        "shape": {"size": 1, "side": side.back}, "anything": anything.back, "by_key": drawn_keys.back, "ratio": ratio,
    }  # fmt: skip
    refused = [part.refused for part in (lives, side, anything, drawn_keys)]
    return Drawn(zoo, back, any(refused) or not math.isfinite(ratio))


def nested(parts: SearchStrategy[Drawn]) -> SearchStrategy[Drawn]:
    return st.one_of(
        st.lists(parts, max_size=3).map(a_list),
        st.lists(parts, max_size=3).map(lambda drawn: a_list(drawn, tuple)),
        st.dictionaries(KEYS, parts, max_size=3).map(a_dict),
        parts.map(an_enum),
        st.builds(a_plain, parts, parts),
        st.builds(a_point, parts, parts),
        st.builds(a_zoo, parts, parts, parts, st.dictionaries(KEYS, parts, max_size=2), st.floats()),
    )


# Of ten values one is no JSON, so that most of what is nested is good.
VALUES = st.recursive(st.one_of(*[PLAIN] * 6, *[OTHERS] * 3, NOT_JSON), nested, max_leaves=12)


def as_text(value: Any) -> str:
    """Tells 1 from 1.0 and from true."""
    return json.dumps(value, sort_keys=True)


@given(VALUES)
def test_a_result_comes_back_equal_or_is_refused(drawn: Drawn) -> None:
    if drawn.refused:
        with pytest.raises(BadTask, match=r"^result "):
            result_json(drawn.value)
    else:
        assert as_text(orjson.loads(result_json(drawn.value))) == as_text(drawn.back)


@given(VALUES)
def test_a_payload_arrives_as_it_was_checked_and_is_equal_or_refused(drawn: Drawn) -> None:
    try:
        encoded = payload_json("payload", drawn.value)
    except BadTask:
        with pytest.raises(BadTask, match="payload of task"):
            Task(task_type="t", payload=drawn.value)
        with pytest.raises(BadTask, match="metadata of task"):
            Task(task_type="t", metadata={"m": drawn.value})
        return
    assert not drawn.refused
    task = Task(task_type="t", payload=drawn.value, metadata={"m": drawn.value})
    arrived = Task.from_json(checked(task).to_json())
    assert arrived == as_received(task)
    assert as_text(drawn.back) == as_text(orjson.loads(encoded)) == as_text(arrived.payload)
    assert as_text(drawn.back) == as_text(arrived.metadata["m"])


@given(st.lists(VALUES, max_size=2).map(a_list))
def test_what_a_continuation_and_its_children_get_is_equal_or_refused(drawn: Drawn) -> None:
    context = Context("t")
    try:
        child = Task(task_type="c", payload=drawn.value)
        spawned = context.spawn([child], then="t", payload=drawn.value)
    except BadTask:
        return
    assert not drawn.refused
    assert as_text(spawned.then.payload) == as_text(drawn.back)
    assert as_text(orjson.loads(spawned.children[0].to_json())["payload"]) == as_text(drawn.back)


# ---- models that payloads are read as ----


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    id: UUID
    at: datetime
    day: date
    takes: timedelta
    price: Decimal
    colour: Colour
    pair: tuple[int, str]
    tags: frozenset[str]
    raw: bytes
    ratio: float
    inner: Strict | None = None


FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
MODELS = st.builds(
    Strict, id=st.uuids(), at=st.datetimes(timezones=st.just(None)), day=st.dates(),
    takes=st.timedeltas(timedelta(-9), timedelta(9)), price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour), pair=st.tuples(st.integers(-9, 9), TEXT), tags=st.frozensets(TEXT, max_size=2),
    raw=TEXT.map(str.encode), ratio=FINITE,
)  # fmt: skip


def handler_of(model: Any) -> Handler:
    return Handler(
        "t", print, "sync", 1.0, 1, None, wants_payload=True, wants_context=False, payload_default=NO_DEFAULT,
        payload_model=TypeAdapter(model), capabilities=(), module="m", qualname="q", source="s",
    )  # fmt: skip


@given(MODELS, MODELS)
def test_a_strict_payload_model_is_read_from_its_own_json(model: Strict, inner: Strict) -> None:
    model = model.model_copy(update={"inner": inner})
    payload = orjson.loads(Task(task_type="t", payload=orjson.loads(model.model_dump_json())).to_json())["payload"]

    assert handler_of(Strict).arguments(payload, None) == (model,)
    assert handler_of(list[Strict] | None).arguments([payload], None) == ([model],)
