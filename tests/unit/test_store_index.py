"""Indexes of the store: what stands for the same vectors, and how texts are parted among the tasks that embed them."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadTask, ConfigError
from core.json_values import PAYLOAD_LIMIT_BYTES
from core.store_index import (
    MOST_TASKS,
    TASK_BYTES,
    Embedded,
    StoreIndex,
    indexes_in,
    is_embedding,
    size_of,
    store_index,
    tasks_for,
)
from core.tasks import Task

INDEX = StoreIndex(embed="./a.py:embed", dims=3, fields=("text",), graphs=("agent",))


def test_an_index_is_the_same_if_it_gives_the_same_vectors_of_the_same_items() -> None:
    changes: list[dict[str, Any]] = [{"embed": "./b.py:embed"}, {"dims": 4}, {"fields": ("text", "x")}]
    others = [msgspec.structs.replace(INDEX, **change) for change in changes]
    assert len({index.digest for index in (INDEX, *others)}) == 4
    assert msgspec.structs.replace(INDEX, graphs=("other",)).digest == INDEX.digest
    assert Task(task_type=INDEX.task_type).task_type == INDEX.task_type
    assert is_embedding(INDEX.task_type)
    assert not is_embedding("agents.gather")


def test_what_a_project_says_is_told_by_its_workers() -> None:
    told = {"embed": "openai:small", "dims": 8, "something": "else"}
    index = store_index(told, ["agent", "other"])
    assert index == StoreIndex(embed="openai:small", dims=8, fields=("$",), graphs=("agent", "other"))
    assert indexes_in({"store_indexes": [msgspec.to_builtins(index)]}) == [index]
    for nothing in ({}, {"store_indexes": [{"embed": "x"}]}, {"store_indexes": "x"}, {"store_indexes": {"a": 1}}):
        assert indexes_in(nothing) == []
    with pytest.raises(ConfigError, match=r"index: dims: expected int <= 32768"):
        store_index(told | {"dims": 40_000}, [])


@given(
    st.lists(st.text(max_size=20).map(lambda text: text * 2000), max_size=40),
    st.sampled_from((1, 1536, 30_000, 32_768)),
)
def test_each_text_is_in_one_task_in_order_and_each_task_fits(texts: list[str], dims: int) -> None:
    try:
        parts = tasks_for(texts, dims)
    except BadTask:
        assert sum(map(size_of, texts)) > TASK_BYTES or dims > 1536
        return
    assert [text for part in parts for text in part.texts] == texts
    assert len(parts) <= MOST_TASKS
    for part in parts:
        assert len(msgspec.json.encode(part)) <= PAYLOAD_LIMIT_BYTES
        given = msgspec.json.encode(Embedded.of([bytes(4 * dims)] * len(part.texts)))
        assert len(given) <= PAYLOAD_LIMIT_BYTES
    few = [part for part in parts[:-1] if len(msgspec.json.encode(part)) < TASK_BYTES // 4]
    assert not few or dims > 1536


def test_what_is_too_much_is_refused_with_the_cure() -> None:
    with pytest.raises(BadTask, match="a text of 300003 bytes is to be embedded, and at most 245760 can be: shorten"):
        tasks_for(["a", "x" * 300_000], 3)
    with pytest.raises(BadTask, match="1000 texts are to be embedded, more than 32 tasks can take: name fewer fields"):
        tasks_for([f"{number}" for number in range(1000)], 1536)


def test_only_vectors_of_the_right_size_are_taken() -> None:
    told = msgspec.to_builtins(Embedded.of([bytes(12), bytes(12)]))
    embedded = msgspec.convert(orjson.loads(orjson.dumps(told)), Embedded)
    assert embedded.unpacked(2, 3) == [[0, 0, 0], [0, 0, 0]]
    for count, dims in ((1, 3), (2, 4), (3, 2 + 1)):
        with pytest.raises(ValueError, match="24 bytes are not"):
            embedded.unpacked(count, dims)
    for vectors in ("?", "AAA", "é"):
        with pytest.raises(ValueError, match=r"."):
            Embedded(vectors=vectors).unpacked(0, 3)
