"""Frames on the sockets between a worker and its children."""

from __future__ import annotations

import os
import socket
from typing import Any

import orjson
import pytest

from worker.children.frames import FRAME_LIMIT_BYTES, LENGTH, Frames, encode, read_frame

MESSAGES: list[dict[str, Any]] = [{"run": 1}, {}, {"text": "x" * 300}]


@pytest.mark.parametrize("step", [1, 3, 5, 1000])
def test_frames_come_out_whole_however_the_bytes_arrive(step: int) -> None:
    stream = b"".join(map(encode, MESSAGES))
    frames = Frames()

    bodies = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]

    assert [orjson.loads(body) for body in bodies] == MESSAGES


def test_a_frame_over_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(ValueError, match="over"):
        Frames().feed(LENGTH.pack(FRAME_LIMIT_BYTES + 1))


def test_descriptors_arrive_with_the_message_they_were_sent_with() -> None:
    ours, theirs = socket.socketpair()
    read_end, write_end = os.pipe()
    with ours, theirs, os.fdopen(read_end, "rb") as reader:
        ours.sendall(encode({"first": 1}))
        socket.send_fds(ours, [encode({"second": 2})], [write_end])
        os.close(write_end)

        assert read_frame(theirs) == ({"first": 1}, [])
        received = read_frame(theirs)
        assert received is not None
        message, [descriptor] = received
        os.write(descriptor, b"through")
        os.close(descriptor)
        assert (message, reader.read()) == ({"second": 2}, b"through")


def test_a_frame_cut_off_by_the_end_of_the_other_side_is_none() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(encode({"text": "cut"})[:-1])
        assert read_frame(theirs) is None
