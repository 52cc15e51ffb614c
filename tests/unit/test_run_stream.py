"""Ids of chunks in the streams of runs."""

from __future__ import annotations

import pytest

from core.run_stream import place_of


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
