"""A child's end of its socket, which threads of an attempt may poll, and some that have outlived theirs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from worker.children.frames import encode
from worker.children.main import NO_RUN, Channel

Ends = tuple[Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The child's, and the worker's."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        yield Channel(theirs), ours


def test_a_run_learns_that_it_is_to_stop(ends: Ends) -> None:
    channel, worker = ends
    channel.begin(1)
    assert not channel.cancelled(1)

    worker.sendall(encode({"cancel": 1}))

    assert channel.cancelled(1)


def test_a_thread_that_outlived_its_run_is_told_to_stop_and_takes_no_message_of_another(ends: Ends) -> None:
    channel, worker = ends
    channel.begin(1)
    channel.begin(NO_RUN)
    worker.sendall(encode({"run": 2}))

    assert channel.cancelled(1)
    assert channel.receive() == {"run": 2}

    channel.begin(2)
    worker.sendall(encode({"cancel": 2}))
    assert channel.cancelled(1)
    assert channel.cancelled(2)
