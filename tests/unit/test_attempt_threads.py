"""The threads of attempts: how many calls may block at a time."""

from __future__ import annotations

from threading import Event

from worker.hosts.threads import AttemptThreads

#: Long enough for whatever is to happen.
SOON_S = 20


def test_a_call_that_lends_its_thread_lets_one_begin_that_waits_already() -> None:
    second_waits, second_ran, allowed = Event(), Event(), list[int]()
    threads = AttemptThreads()
    threads._max_workers = 1

    def first() -> bool:
        second_waits.wait(SOON_S)
        with threads.lent(allowed.append):
            return second_ran.wait(SOON_S)

    lending = threads.submit(first)
    threads.submit(second_ran.set)
    second_waits.set()

    assert lending.result()
    assert allowed == [2]
    threads.shutdown()
