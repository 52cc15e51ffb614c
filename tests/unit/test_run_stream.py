"""Chunks in the streams of runs, and their ids."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from core.run_stream import chunks_of, place_of
from worker.hosts.graph_events import chunk_json


@pytest.mark.parametrize(
    ("chunk_id", "place"),
    [("0-0/-1", (0, 0, -1)), ("17-2/3", (17, 2, 3)), (f"{2**64 - 1}-{2**64 - 1}/0", (2**64 - 1, 2**64 - 1, 0))],
)
def test_the_id_of_a_chunk_says_where_it_stands(chunk_id: str, place: tuple[int, int, int]) -> None:
    assert place_of(chunk_id) == place


@pytest.mark.parametrize(
    "chunk_id",
    ["", "x", "1-1", "1-1/", "1/1-1", f"{2**64}-0/0", f"0-{2**64}/0", f"{'9' * 5000}-0/0", "²-0/0", "٣-٣/٣", "1-1/1\n"],
)
def test_what_no_chunk_can_be_called_is_refused(chunk_id: str) -> None:
    with pytest.raises(ValueError, match="there is no chunk"):
        place_of(chunk_id)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**64 - 1, 2**64 - 1),
        (-(2**70), float(-(2**70))),
        (10**308, 1e308),
        (-(10**309), f"-1{'0' * 309}"),
        (10**4299, f"1{'0' * 4299}"),
        (10**5000, f"1{'0' * 5000}"),
    ],
    ids=["64 bits", "70 bits", "308 zeros", "309 zeros", "as many as Python writes", "more than Python writes"],
)
def test_a_number_of_any_length_is_told_and_so_is_what_stands_beside_it(value: int, told: Any) -> None:
    chunks = [chunk_json("custom", ("sub",), {"value": value, "0": 1.5}), chunk_json("values", (), [10**18])]
    first, second = chunks_of(b"1-1", {b"attempt": b"1", b"chunks": b"[%b]" % b",".join(chunks)})
    assert (first.namespace, first.data) == (("sub",), {"value": told, "0": 1.5})
    assert second.data == [10**18]
    assert orjson.loads(orjson.dumps(first.data)) == first.data
