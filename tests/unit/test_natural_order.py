"""Names with numbers in them are sorted as people count."""

from __future__ import annotations

import pytest

from core.natural_order import natural_key


@pytest.mark.parametrize(
    "names",
    [
        ["worker-1", "worker-2", "worker-10"],
        ["worker-2", "worker-2.1", "worker-10"],
        ["a", "a1", "a1b", "a2", "b"],
        ["", "1", "01x", "2", "a"],
        ["worker-01", "worker-1"],
    ],
)
def test_numbers_in_names_are_sorted_by_their_value(names: list[str]) -> None:
    shuffled = [*names[1::2], *names[::2]]
    assert sorted(shuffled, key=natural_key) == names


def test_digits_of_other_scripts_are_letters() -> None:
    assert sorted(["worker-\u0663", "worker-2", "worker-\u00b2"], key=natural_key)[0] == "worker-2"
