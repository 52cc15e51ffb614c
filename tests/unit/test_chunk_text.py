"""What a run tells, as people see it in a terminal."""

from __future__ import annotations

from typing import Any

from core.cli.chunk_text import ChunkText
from core.run_stream import StreamChunk


def shown(*chunks: tuple[Any, ...]) -> str:
    text = ChunkText()
    told = [StreamChunk("1-0/0", 1, mode, more[0] if more else (), data) for mode, data, *more in chunks]
    return "".join(map(text.of, told))


def part(content: Any, name: str = "m", node: str = "say", kind: str = "AIMessageChunk") -> Any:
    return [{"content": content, "id": name, "type": kind}, {"langgraph_node": node}]


def test_tokens_stand_in_a_line_and_each_message_begins_one() -> None:
    told = shown(
        ("messages", part("It ")),
        ("messages", part("rains.")),
        ("messages", part("")),
        ("messages", part([{"type": "text", "text": "And\nsnows."}], "n", "add"), ("inner:1",)),
        ("messages", part("8", "t", "tools", "tool")),
        ("updates", {"say": {"done": 1}}),
    )
    assert told == 'say: It rains.\ninner > add: And\nsnows.\nsay has returned {"done": 1}\n'


def test_of_a_message_in_blocks_all_that_is_text_is_shown() -> None:
    blocks = ["It ", {"type": "text", "text": None}, {"type": "text", "text": "rains"}, {"type": "text", "text": 5}]
    assert shown(("messages", part(blocks))) == "say: It rains"


def test_other_chunks_are_lines() -> None:
    told = shown(
        ("tasks", {"name": "say", "input": {}}),
        ("tasks", {"name": "say", "result": {}, "error": "no such thing"}),
        ("tasks", {"name": "add", "result": {}, "error": None}, ("inner:1",)),
        ("updates", {"__interrupt__": [{"value": "really?", "id": "q"}]}),
        ("custom", {"at": 1}),
        ("values", {"done": "x" * 300}),
        ("messages", {"left_out_bytes": 300_000}),
        ("lifecycle", {"attempt": 2}),
        ("lifecycle", {"status": "completed"}),
    ).splitlines()
    assert told[:5] == [
        "say runs",
        "say has failed: no such thing",
        "inner > add has returned",
        'asks: [{"value": "really?", "id": "q"}]',
        '{"at": 1}',
    ]
    assert told[5].startswith('values {"done": "xxx')
    assert len(told[5]) < 220
    assert told[6:] == ['messages {"left_out_bytes": 300000}', "attempt 2 goes on", "the run is completed"]


def test_nothing_that_a_graph_tells_moves_the_cursor() -> None:
    told = shown(("messages", part("\x1b[2Jgone")), ("tasks", {"name": "\x1b[2J", "input": {}}))
    assert "\x1b" not in told
