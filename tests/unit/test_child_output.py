"""What a child prints, as its worker shows it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import pytest

from worker.children.output import CAPPED_FOR_S, OUTPUT_LIMIT_BYTES, ChildOutput


class Printing:
    """The end of a pipe that a child prints to, and what is shown of it."""

    def __init__(self, *, logs_json: bool = False) -> None:
        self.shown: list[str] = []
        self.now_s = 0.0
        read_end, self._write_end = os.pipe()
        self.output = ChildOutput(read_end, self.shown.append, logs_json=logs_json, now_s=lambda: self.now_s)
        self.output.begin("t")

    def print(self, data: bytes) -> str:
        self.shown.clear()
        for start in range(0, len(data), 1024):
            os.write(self._write_end, data[start : start + 1024])
            self.output.end()
        return "".join(self.shown)

    def close(self) -> None:
        self.output.close()
        os.close(self._write_end)


@pytest.fixture
async def printing() -> AsyncIterator[Printing]:
    printing = Printing()
    yield printing
    printing.close()


async def test_a_long_attempt_that_has_printed_too_much_is_heard_again_after_a_minute(printing: Printing) -> None:
    flooded = printing.print((b"x" * 1023 + b"\n") * (OUTPUT_LIMIT_BYTES // 1024))

    assert flooded.endswith("[t] output capped at 64 KiB for a minute\n")
    assert printing.print(b"unheard\n") == ""
    printing.now_s += CAPPED_FOR_S
    assert printing.print(b"heard\n") == "[t] heard\n"
    assert printing.output.tail.endswith(b"unheard\nheard\n")


ENTRY = {"time": "now", "level": "INFO", "logger": "mine", "message": "m"}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (json.dumps({**ENTRY, "task_id": "forged"}).encode(), {**ENTRY, "task_id": "t"}),
        (json.dumps({**ENTRY, "a": "\u2028"}, ensure_ascii=False).encode(), {**ENTRY, "a": "\u2028", "task_id": "t"}),
        (b'{"level": "INFO"}', '[t] {"level": "INFO"}\n'),
        (b"plain", "[t] plain\n"),
        (b'{"cut', '[t] {"cut\n'),
        (b"{}", "[t] {}\n"),
        (b"[1]", "[t] [1]\n"),
    ],
)
async def test_in_json_a_line_of_a_log_stays_one_and_names_its_task(line: bytes, shown: object) -> None:
    printing = Printing(logs_json=True)
    said = printing.print(line + b"\n")
    printing.close()

    assert (json.loads(said) if isinstance(shown, dict) else said) == shown
    assert said.isascii()
    assert said.count("\n") == 1
