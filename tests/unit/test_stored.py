"""Stored values that anybody may have replaced are read without harm."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from core.stored import moment, number_in, pairs, shown


@pytest.mark.parametrize(
    ("flat", "fields"),
    [
        ([], {}),
        ([b"a", b"1", b"b", b"2"], {b"a": b"1", b"b": b"2"}),
        ([b"a", b"1", b"b"], {b"a": b"1"}),
    ],
)
def test_a_flat_list_becomes_fields_and_a_name_without_value_is_dropped(
    flat: list[bytes], fields: dict[bytes, bytes]
) -> None:
    assert pairs(flat) == fields


@pytest.mark.parametrize(
    ("ms", "when"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_767_225_600_500, datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        (10**15, datetime.max.replace(tzinfo=UTC)),
        (10**30, datetime.max.replace(tzinfo=UTC)),
        (10**400, datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_moment_beyond_all_calendars_is_the_last_one(ms: int, when: datetime) -> None:
    assert moment(ms) == when


@pytest.mark.parametrize(
    ("name", "text"), [(b"task-1", "task-1"), (b"a\xffb", "a\ufffdb"), (b"x" * 64, "x" * 64), (b"x" * 65, "x" * 64)]
)
def test_a_name_is_shown_up_to_its_64th_byte_whatever_is_in_it(name: bytes, text: str) -> None:
    assert shown(name) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"0", 0), (b"7", 7), (b"9" * 15, 10**15 - 1), (b"%d" % (2**53 - 1), 2**53 - 1), (b"%d" % 2**53, 0),
        (b"7".zfill(32), 7), (b"7".zfill(33), 0),
        (b"", 0), (b"-1", 0), (b"1.5", 0), (b"one", 0), (None, 0), (7, 0), ("7", 0),
    ],
)  # fmt: skip
def test_what_we_cannot_have_written_counts_as_no_number(value: object, number: int) -> None:
    assert number_in(value) == number


def test_a_number_has_the_bound_of_its_field() -> None:
    assert (number_in(b"99", 100), number_in(b"100", 100)) == (99, 0)
