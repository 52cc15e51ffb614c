"""Values of programs as JSON: what comes back, and what is refused because it would not come back as it is."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import orjson
import pydantic
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, computed_field, field_serializer, model_serializer

from core.errors import BadTask
from core.json_values import (
    DEPTH_LIMIT,
    PAYLOAD_LIMIT_BYTES,
    PLAIN_DEPTH_LIMIT,
    Unequal,
    check_limits,
    check_plain,
    payload_json,
    result_json,
    unique_members,
)
from core.tasks import Task, checked

NAN, INFINITY = math.nan, math.inf
NO_NUMBER = "holds nan or infinity, which JSON does not have. Use None or a string in its place."


class Colour(Enum):
    RED = "red"
    MANY = ("a", 1)


class Point(NamedTuple):
    x: Any
    y: Any


class Animal(BaseModel):
    name: str = "a"


class Cat(Animal):
    lives: Any = 9


class Zoo(BaseModel):
    first: Animal
    others: list[Animal] = []
    anything: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    own: Any = None


class Reordered(BaseModel):
    """Its author writes it as something else."""

    left: Any = None

    @model_serializer
    def _other(self) -> list[Any]:
        return [self.left, "more"]


class Written(BaseModel):
    """Its author says what it is in JSON, and in JSON alone."""

    left: Any = None
    as_json: Any = None

    @model_serializer(when_used="json")
    def _json(self) -> Any:
        return self.as_json


class Computed(BaseModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def more(self) -> list[Any]:
        return [[1], {"a": 2}]


@dataclasses.dataclass
class Plain:
    left: Any = None
    _right: Any = None


@dataclasses.dataclass
class PlainBase:
    one: int = 1


@dataclasses.dataclass
class PlainSub(PlainBase):
    two: int = 2


@dataclasses.dataclass
class PlainSubSub(PlainSub):
    three: int = 3


class NoDataclass(PlainBase):
    pass


@pydantic.dataclasses.dataclass
class Shape:
    size: int = 1


@pydantic.dataclasses.dataclass
class Square(Shape):
    side: Any = 2


SQUARE = Square(size=1, side=2)
UNIQUE = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({"a": [1, 2.5, True, None, "x"]}, {"a": [1, 2.5, True, None, "x"]}),
        ((1, (2,)), [1, [2]]),
        (UNIQUE, str(UNIQUE)),
        (date(2026, 1, 2), "2026-01-02"),
        (time(1, 2, 3, 10_000), "01:02:03.010000"),
        ([Colour.RED, Colour.MANY], ["red", ["a", 1]]),
        (Plain(1, {"a": 2}), {"left": 1, "_right": {"a": 2}}),
        ([Plain([], {})], [{"left": [], "_right": {}}]),
        (Plain(Plain([1], ())), {"left": {"left": [1], "_right": []}, "_right": None}),
        ({"s": SQUARE}, {"s": {"size": 1, "side": 2}}),
        (Plain(Colour.MANY), {"left": ["a", 1], "_right": None}),
    ],
)
def test_a_value_comes_back_equal_as_payload_and_as_result(value: object, back: object) -> None:
    assert orjson.loads(payload_json("payload", value)) == back
    assert orjson.loads(result_json(value)) == back


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({1: "a", None: "b", 2.5: "c", date(2026, 1, 2): "d"}, {"1": "a", "null": "b", "2.5": "c", "2026-01-02": "d"}),
        ({1, 2}, [1, 2]),
        (frozenset({7}), [7]),
        (Zoo(first=Cat(), others=[Animal(), Cat(lives=1)]), {
            "first": {"name": "a", "lives": 9}, "others": [{"name": "a"}, {"name": "a", "lives": 1}], "anything": None,
        }),
        (Zoo(first=Animal(), anything=Open.model_validate({"own": 1, "more": [Cat()]})), {
            "first": {"name": "a"}, "others": [],
            "anything": {"own": 1, "more": [{"name": "a", "lives": 9}]},
        }),
        (Reordered(left=1), [1, "more"]),
        (Zoo(first=Animal(), anything=Reordered(left=Cat())), {
            "first": {"name": "a"}, "others": [], "anything": [{"name": "a", "lives": 9}, "more"],
        }),
        (NoDataclass(), {"one": 1}),
        (Written(left=NAN, as_json=["json"]), ["json"]),
        (Written(left=NAN, as_json={"a": None}), {"a": None}),
        (Computed(), {"more": [[1], {"a": 2}]}),
        (Animal.model_construct(name=5), {"name": 5}),
        (Point(1, [Cat()]), [1, [{"name": "a", "lives": 9}]]),
    ],
)  # fmt: skip
def test_an_object_comes_back_with_all_that_its_own_class_has(value: object, back: object) -> None:
    assert orjson.loads(result_json(value)) == back


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "Type is not JSON serializable: object: object"),
        ({Cat}, "Type is not JSON serializable: set: set"),
        ({1: 2}, "Dict key must be str"),
        (2**64, "Integer exceeds 64-bit range"),
    ],
)
def test_a_payload_that_is_no_json_is_refused_with_the_cure(value: object, why: str) -> None:
    with pytest.raises(BadTask) as refused:
        payload_json("the payload", value)
    assert str(refused.value) == (
        f"the payload is not JSON: {why}. Use dicts, lists, strings, numbers, booleans and None."
    )


def test_a_result_that_is_no_json_is_refused_with_the_cure() -> None:
    with pytest.raises(BadTask) as refused:
        result_json(2**64)
    assert str(refused.value) == (
        "result is not JSON: Integer exceeds 64-bit range. Return dicts, lists, strings, numbers, booleans, None,"
        " pydantic models or dataclasses."
    )


@pytest.mark.parametrize(
    "value",
    [
        NAN, [INFINITY], {"a": (1, NAN)}, Colour, Plain(NAN), Plain([1, {"a": NAN}]), Point(1, NAN), {INFINITY: 1},
        Zoo(first=Cat(lives=NAN)), Zoo(first=Animal(), anything={NAN: 1}),
        Zoo(first=Animal(), anything=Open.model_validate({"more": NAN})),
        Reordered(left=NAN), Plain({"a": Plain(INFINITY)}), [SQUARE, Square(side=-INFINITY)], {NAN},
    ],
)  # fmt: skip
def test_a_result_with_nan_anywhere_is_refused_with_the_cure(value: object) -> None:
    given = Enum("Drawn", {"ONE": NAN}).ONE if value is Colour else value  # type: ignore[attr-defined]
    with pytest.raises(BadTask) as refused:
        result_json(given)
    assert str(refused.value) == f"result {NO_NUMBER}"


def test_what_is_too_large_is_refused_by_its_name() -> None:
    with pytest.raises(BadTask, match=r"^the payload has 262146 bytes as JSON"):
        payload_json("the payload", "x" * PAYLOAD_LIMIT_BYTES)


def test_members_are_an_object_unless_two_have_one_key() -> None:
    assert unique_members([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    for key in ("b", "x" * 81):
        with pytest.raises(Unequal) as refused:
            unique_members([("a", 1), (key, 2), (key, 3)])
        assert str(refused.value) == (
            f"has the key {key[:80]!r} twice in one object: only one of the values would be left."
        )


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"x" * PAYLOAD_LIMIT_BYTES, ""),
        (
            b"x" * (PAYLOAD_LIMIT_BYTES + 1),
            "it has 262145 bytes as JSON, over the limit of 262144. Store it elsewhere and pass a reference.",
        ),
        (b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT, ""),
        (b'{"a":' * DEPTH_LIMIT + b"1" + b"}" * DEPTH_LIMIT, ""),
        (b'["' + b"[{" * DEPTH_LIMIT + b'\\"[[",1]', ""),
        (b"[" + b"[]," * DEPTH_LIMIT + b"[]]", ""),
        (b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1), "it nests lists and objects deeper than 64; flatten it."),
    ],
)
def test_json_is_bounded_in_size_and_depth(encoded: bytes, words: str) -> None:
    try:
        check_limits("it", encoded)
        refused = ""
    except BadTask as error:
        refused = str(error)
    assert refused == words


class Conversation(BaseModel):
    messages: list[BaseMessage]


def test_messages_keep_what_only_their_own_class_has() -> None:
    call = {"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call"}
    told = Conversation(messages=[HumanMessage("hi"), AIMessage("", tool_calls=[call])])

    back = orjson.loads(result_json({"state": told}))

    assert back["state"]["messages"][1]["tool_calls"] == [call]


class Shed(BaseModel):
    stores: PlainBase = PlainBase()
    by_name: dict[str, PlainBase] = {}
    many: list[PlainBase] = []
    renamed: Annotated[PlainBase, Field(serialization_alias="other")] = PlainBase()


class OpenShed(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PlainBase]


class Wide(BaseModel):
    stores: SerializeAsAny[PlainBase] = PlainBase()


@pytest.mark.parametrize(
    ("shed", "kind", "lost"),
    [
        (Shed(stores=PlainSub()), "PlainSub", "two"),
        (Shed(by_name={"a": PlainSub()}), "PlainSub", "two"),
        (Shed(stores=PlainSubSub()), "PlainSubSub", "three, two"),
        (Shed(many=[PlainBase(), PlainSub()]), "PlainSub", "two"),
        (Shed(renamed=PlainSub()), "PlainSub", "two"),
        (OpenShed.model_validate({"more": PlainSub()}), "PlainSub", "two"),
        (Plain(Shed(stores=PlainSub())), "PlainSub", "two"),
    ],
)
def test_a_plain_dataclass_that_would_lose_fields_is_refused_with_the_cure(shed: object, kind: str, lost: str) -> None:
    with pytest.raises(BadTask) as refused:
        result_json([shed])
    assert str(refused.value) == (
        f"result holds a {kind} in a field of PlainBase, and would lose its {lost}. Declare"
        f" SerializeAsAny[PlainBase], or make {kind} a pydantic dataclass."
    )
    assert orjson.loads(result_json(Wide(stores=PlainSub()))) == {"stores": {"one": 1, "two": 2}}


class Numbers(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    ratio: float = NAN
    missing: float | None = None
    own: float = NAN

    @field_serializer("own")
    def _own(self, value: float) -> str:
        return f"<{value}>"


def test_a_model_that_says_itself_what_nan_is_in_json_is_believed() -> None:
    assert orjson.loads(result_json(Numbers())) == {"ratio": "NaN", "missing": None, "own": "<nan>"}


class Twice(BaseModel):
    one: Annotated[int, Field(serialization_alias="same")] = 1
    two: Annotated[int, Field(serialization_alias="same")] = 2


@pytest.mark.parametrize(
    "value",
    [{1: "a", "1": "b"}, {"x": {True: 1, "true": 2}}, {None: 1, "null": 2}, Twice(), Plain({1.5: 1, "1.5": 2})],
)
def test_two_values_that_would_have_one_key_are_refused_naming_it(value: object) -> None:
    with pytest.raises(BadTask, match=r"result has the key '(1|true|null|same|1.5)' twice in one object"):
        result_json(value)


@pytest.mark.parametrize("value", [{INFINITY: 1, -INFINITY: 2}, {NAN: 1}, Plain({INFINITY: 1}), [Plain({NAN: 1})]])
def test_a_key_that_is_no_number_in_json_is_refused(value: object) -> None:
    with pytest.raises(BadTask, match="nan or infinity"):
        result_json(value)


class Measured(Enum):
    NOTHING = NAN
    MUCH = (1.0, INFINITY)


@pytest.mark.parametrize(
    "value", [Plain(NAN), Plain([Plain(-INFINITY)]), Plain(Measured.MUCH), Measured.NOTHING, {"a": Measured.MUCH}]
)
def test_a_payload_with_nan_inside_of_an_object_is_refused(value: object) -> None:
    with pytest.raises(BadTask, match="payload holds nan or infinity"):
        payload_json("payload", value)


def test_a_payload_keeps_fields_that_have_their_default() -> None:
    task = Task(task_type="t", payload=[Square(size=1, side=2)])
    assert orjson.loads(checked(task).to_json())["payload"] == [{"size": 1, "side": 2}]


@pytest.mark.parametrize(
    "moment",
    [time(1, 2, 3, 10_000), datetime(1930, 1, 1, 0, 0, 0, 99_999, timezone(timedelta(minutes=19, seconds=32)))],
)
def test_a_moment_is_the_same_to_the_microsecond_and_in_its_offset(moment: time | datetime) -> None:
    for back in (orjson.loads(result_json([moment])), checked(Task(task_type="t", payload=[moment])).payload):
        assert [type(moment).fromisoformat(text) for text in back] == [moment]


def test_a_payload_may_hold_messages_and_models_as_a_result_may() -> None:
    messages: Any = [HumanMessage("hello"), AIMessage("hello too", tool_calls=[{"name": "t", "args": {}, "id": "1"}])]
    payload = {"messages": messages, "animal": Cat(lives=7)}
    written = payload_json("payload", payload)
    assert written == result_json(payload)
    back = convert_to_messages(orjson.loads(written)["messages"])
    assert [(message.type, message.text) for message in back] == [("human", "hello"), ("ai", "hello too")]
    assert isinstance(back[1], AIMessage)
    assert back[1].tool_calls == messages[1].tool_calls


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else {"a": None}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": ["\ud800"]}, "half of a character"),
        ({"\ud800": 1}, "half of a character"),
        ([2**64], "more than 64 bits"),
        ([-(2**63) - 1], "more than 64 bits"),
        ({"a": NAN}, "nan or infinity"),
        ([[INFINITY]], "nan or infinity"),
        (nested(PLAIN_DEPTH_LIMIT), "deeper than 100"),
        (nested(900), "deeper than 100"),
    ],
)
def test_what_was_read_and_cannot_be_written_is_not_plain(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_plain(value)


@pytest.mark.parametrize(
    "value", [nested(PLAIN_DEPTH_LIMIT - 1), {"a": [2**64 - 1, -(2**63), 0.5, None, "\U0001f4a9"]}]
)
def test_what_can_be_written_again_is_plain(value: Any) -> None:
    check_plain(value)
