"""Messages as thread streams tell them: each begins, grows block by block, and is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk, messages_from_dict
from langchain_core.messages.ai import UsageMetadata, add_usage

__all__ = ["MessageEvents"]

#: The type of a part of a message that comes piece by piece.
CHUNK = "AIMessageChunk"
#: Who has written a message, by its type. Others, such as results of tools, are told in other channels.
ROLES = {CHUNK: "ai", "ai": "ai", "human": "human", "system": "system"}
#: The name under which LangGraph tells in the metadata of a message which node it comes from: the node's namespace.
PLACE = "langgraph_checkpoint_ns"
#: What of a message's metadata is told, and as what.
METADATA = {
    "ls_provider": "provider", "ls_model_name": "model", "ls_model_type": "model_type", "thread_id": "thread_id",
    "langgraph_node": "langgraph_node",
}  # fmt: skip
#: The field of a block that grows, its delta, and the field of that, by the type of the block.
GROWING = {
    "text": ("text", "text-delta", "text"),
    "reasoning": ("reasoning", "reasoning-delta", "reasoning"),
    "tool_call_chunk": ("args", "tool-call-delta", "args"),
}


class MessageEvents:
    """The messages of one run that are not finished."""

    def __init__(self) -> None:
        self._open: dict[str, _Growing] = {}

    def take(self, told: Any, namespace: tuple[str, ...]) -> Iterator[_Told]:
        """Takes `[part, metadata]`, as the stream mode `messages` tells it."""
        said, metadata = told
        if said["type"] not in ROLES:
            return
        part = _part_of(said)
        growing = self._open.get(part.message_id)
        if growing is None and said["type"] == CHUNK and part.is_last and not part.blocks:
            growing = self._newest_of(metadata)  # LangChain ends messages whose model does not, under an id of its own
        if growing is None:
            growing = self._open[part.message_id] = _Growing(part.message_id, ROLES[said["type"]], metadata, namespace)
            yield growing.begin()
        yield from growing.grow(part)
        if part.is_last:
            yield from self._finish(growing)

    def finish(self, place: str) -> Iterator[_Told]:
        """Finishes what a node has begun, once that has ended. `place`: its namespace, which no other node has that
        runs beside it, not even one of the same name."""
        for growing in [*self._open.values()]:
            if growing.place == place:
                yield from self._finish(growing)

    def break_off(self, why: str) -> Iterator[_Told]:
        """Ends all messages that are open, since nothing more comes."""
        for growing in self._open.values():
            yield growing.event({"event": "error", "message": why})
        self._open.clear()

    def _finish(self, growing: _Growing) -> Iterator[_Told]:
        del self._open[growing.message_id]
        yield from growing.finish()

    def _newest_of(self, metadata: Mapping[str, Any]) -> _Growing | None:
        same = [one for one in self._open.values() if one.place == metadata.get(PLACE)]
        return same[-1] if same else None


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a message, or all of it."""

    message_id: str
    blocks: list[dict[str, Any]]  #: what it adds to the content
    is_last: bool
    usage: UsageMetadata | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told of a message, and where."""

    namespace: tuple[str, ...]
    node: str
    data: dict[str, Any]


@dataclass(slots=True)
class _Growing:
    """A message that is under way."""

    message_id: str
    role: str
    metadata: Mapping[str, Any]
    namespace: tuple[str, ...]
    _index: int = -1  #: of the block that grows
    _block: dict[str, Any] | None = field(default=None)
    _usage: UsageMetadata | None = None

    @property
    def place(self) -> Any:
        """The namespace of the node that tells it."""
        return self.metadata.get(PLACE)

    @property
    def node(self) -> str:
        return str(self.metadata.get("langgraph_node", ""))

    def event(self, data: dict[str, Any]) -> _Told:
        return _Told(self.namespace, self.node, {**data, "message_id": self.message_id})

    def begin(self) -> _Told:
        known = {shown: self.metadata[name] for name, shown in METADATA.items() if name in self.metadata}
        return self.event({"event": "message-start", "role": self.role, "id": self.message_id, "metadata": known})

    def grow(self, part: _Part) -> Iterator[_Told]:
        self._usage = add_usage(self._usage, part.usage) if part.usage else self._usage
        for block in part.blocks:
            yield from self._take(block)

    def finish(self) -> Iterator[_Told]:
        yield from self._finish_block()
        yield self.event({"event": "message-finish", **({"usage": self._usage} if self._usage else {})})

    def _take(self, block: dict[str, Any]) -> Iterator[_Told]:
        growing = GROWING.get(block["type"])
        if growing is None or not self._goes_on(block):
            yield from self._finish_block()
            self._index += 1
            self._block = block if growing is None else {**block, growing[0]: ""}
            yield self.event({"event": "content-block-start", "index": self._index, "content": {**self._block}})
        if growing is not None and (piece := block.get(growing[0])):
            assert self._block is not None
            self._block[growing[0]] += piece
            delta = {"type": growing[1], growing[2]: piece}
            yield self.event({"event": "content-block-delta", "index": self._index, "delta": delta})

    def _goes_on(self, block: Mapping[str, Any]) -> bool:
        """Whether a block is more of the one that grows, rather than another one."""
        if self._block is None or self._block["type"] != block["type"]:
            return False
        return block["type"] != "tool_call_chunk" or block.get("id") in (None, self._block.get("id"))

    def _finish_block(self) -> Iterator[_Told]:
        block, self._block = self._block, None
        if block is not None:
            content = _called(block) if block["type"] == "tool_call_chunk" else block
            yield self.event({"event": "content-block-finish", "index": self._index, "content": content})


def _part_of(said: Mapping[str, Any]) -> _Part:
    """A part as LangChain understands it. Graphs make messages of anything: what it does not understand is told as it
    is, and ends no stream."""
    try:
        [message] = messages_from_dict([{"type": said["type"], "data": said}])
        blocks = [_sound(dict(block)) for block in message.content_blocks]
    except Exception:
        blocks = [{"type": "non_standard", "value": {"content": said.get("content")}}]
        return _Part(str(said.get("id") or ""), blocks, said["type"] != CHUNK or said.get("chunk_position") == "last")
    if isinstance(message, AIMessageChunk):
        return _Part(message.id or "", blocks, message.chunk_position == "last", message.usage_metadata)
    return _Part(message.id or "", blocks, is_last=True)


def _sound(block: dict[str, Any]) -> dict[str, Any]:
    """The block, unless what should grow in it is no text. Raises KeyError: it has no type."""
    growing = GROWING.get(block["type"])
    is_sound = growing is None or isinstance(block.get(growing[0]), str | None)
    return block if is_sound else {"type": "non_standard", "value": block}


def _called(block: Mapping[str, Any]) -> dict[str, Any]:
    """The call of a tool, once its arguments are whole."""
    call = {"id": block.get("id"), "name": block.get("name")}
    try:
        arguments = orjson.loads(block["args"] or "{}")
    except orjson.JSONDecodeError as error:
        return {"type": "invalid_tool_call", **call, "args": block["args"], "error": f"{error}"}
    if not isinstance(arguments, dict):
        return {"type": "invalid_tool_call", **call, "args": block["args"], "error": "the arguments are no object"}
    return {"type": "tool_call", **call, "args": arguments}
