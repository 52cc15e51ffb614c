"""What a client has been told of, and who hears of it."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from msgspec import Raw
from msgspec.structs import replace

from core.client import endings as kept
from core.client.endings import Endings
from core.tasks import Task, TaskStatus


def ended(task_id: str) -> Task:
    return Task(task_id=task_id, task_type="sum", status=TaskStatus.COMPLETED)


def test_an_end_is_given_to_everybody_who_listens_for_it() -> None:
    endings = Endings()
    endings.expect(["a", "b"])
    first, second = endings.listen(["a", "b"]), endings.listen(["a"])

    endings.tell(ended("a"))

    assert [task.task_id for task in first.ended] == ["a"]
    assert [task.task_id for task in second.ended] == ["a"]
    assert list(first.waiting) == ["b"]
    assert not second.waiting


def test_an_end_that_was_told_before_anybody_listened_is_given_at_once_and_only_once() -> None:
    endings = Endings()
    endings.expect(["a"])
    endings.tell(ended("a"))
    endings.tell(ended("a"))

    assert [task.task_id for task in endings.listen(["a"]).ended] == ["a"]
    assert "a" not in endings


def test_the_end_of_a_task_that_nobody_expects_is_dropped() -> None:
    endings = Endings()
    endings.tell(ended("a"))
    assert "a" not in endings


def test_what_a_listener_has_not_taken_can_be_asked_for_again() -> None:
    endings = Endings()
    endings.expect(["a", "b"])
    listener = endings.listen(["a", "b"])
    endings.tell(ended("a"))

    endings.leave(listener)
    endings.tell(ended("b"))

    assert {task.task_id for task in endings.listen(["a", "b"]).ended} == {"a", "b"}


def test_a_task_that_was_refused_is_not_expected_any_more() -> None:
    endings = Endings()
    endings.expect(["a"])
    endings.forget("a")
    assert "a" not in endings


def test_of_what_nobody_asks_for_only_the_newest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_UNASKED", 2)
    endings = Endings()
    endings.expect(["a", "b", "c"])

    for task_id in ("a", "b", "c"):
        endings.tell(ended(task_id))

    assert [task_id in endings for task_id in ("a", "b", "c")] == [False, True, True]


@pytest.mark.parametrize("told", ["confirmed", "ended"])
async def test_who_waits_until_a_task_is_known_hears_of_it_once_it_is_and_not_before(told: str) -> None:
    endings = Endings()
    endings.expect(["a", "b"])
    endings.listen(["a", "b"])
    first, left, other = (asyncio.create_task(endings.assured(task_id)) for task_id in ("a", "a", "b"))
    await asyncio.sleep(0)
    left.cancel()
    endings.confirm(["unknown"])
    assert not first.done()

    if told == "confirmed":
        endings.confirm(["a"])
        await endings.assured("a")
    else:
        endings.tell(ended("a"))

    await first
    assert not other.done()
    other.cancel()


def test_large_results_that_nobody_asks_for_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_UNASKED_BYTES", 2500)
    endings = Endings()
    for name in "abc":
        endings.expect([name])
        endings.tell(replace(ended(name), result_json=Raw(orjson.dumps("x" * 1000))))
    assert [name in endings for name in "abc"] == [False, True, True]
    assert endings.listen(["b", "c"]).ended
    for name in "de":
        endings.expect([name])
        endings.tell(replace(ended(name), result_json=Raw(orjson.dumps("x" * 1000))))
    assert [name in endings for name in "bcde"] == [False, False, True, True]
