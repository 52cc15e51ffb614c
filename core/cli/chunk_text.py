"""What a run tells meanwhile, for people: its tokens as they come, and a line for each of its other chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from core.printable import escaped_json, printable

if TYPE_CHECKING:
    from core.run_stream import StreamChunk

__all__ = ["ChunkText"]

#: Longer values are cut, in characters.
SHOWN = 200


class ChunkText:
    """Turns the chunks of one run into text, piece by piece."""

    def __init__(self) -> None:
        self._speaks = ""  #: id of the message of which the last piece was shown; empty: a line is complete

    def of(self, chunk: StreamChunk) -> str:
        """What is written next."""
        where = "".join(f"{part.partition(':')[0]} > " for part in chunk.namespace)
        if chunk.mode == "messages" and not chunk.is_left_out:
            return self._token(where, *chunk.data)
        lines = "".join(f"{printable(where + line)}\n" for line in _lines(chunk))
        return self._broken() + lines if lines else ""

    def _token(self, where: str, part: Any, metadata: Any) -> str:
        said = _said(part.get("content"))
        if not said or part.get("type") == "tool":
            return ""
        name = str(part.get("id"))
        text = "\n".join(map(printable, said.split("\n")))
        if name != self._speaks:
            text = f"{self._broken()}{printable(where + str(metadata.get('langgraph_node', '')))}: {text}"
        self._speaks = name
        return text

    def _broken(self) -> str:
        was, self._speaks = self._speaks, ""
        return "\n" if was else ""


def _said(content: Any) -> str:
    """The text of a message: its content is a text, or a list of texts and of blocks, of which some have one."""
    if isinstance(content, str):
        return content
    parts = (block.get("text") if isinstance(block, dict) else block for block in content or ())
    return "".join(part for part in parts if isinstance(part, str))


def _lines(chunk: StreamChunk) -> Iterator[str]:
    data = chunk.data
    match chunk.mode:
        case mode if chunk.is_left_out:
            yield f"{mode} {_json(data)}"
        case "updates":
            for node, update in data.items():
                yield f"asks: {_json(update)}" if node == "__interrupt__" else f"{node} has returned {_json(update)}"
        case "tasks" if "input" in data:
            yield f"{data['name']} runs"
        case "tasks":
            yield f"{data['name']} has failed: {data['error']}" if data.get("error") else f"{data['name']} has returned"
        case "lifecycle" if "attempt" in data:
            yield f"attempt {data['attempt']} goes on"
        case "lifecycle":
            yield f"the run is {data['status']}"
        case "custom":
            yield _json(data)
        case mode:
            yield f"{mode} {_json(data)}"


def _json(value: Any) -> str:
    text = escaped_json(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
