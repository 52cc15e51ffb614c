"""Messages as thread streams tell them: each begins, grows block by block, and is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk, BaseMessage, messages_from_dict
from langchain_core.messages.ai import UsageMetadata, add_usage

__all__ = ["MessageEvents"]

#: Who has written a message, by its type. Others, such as results of tools, are told in other channels.
ROLES = {"AIMessageChunk": "ai", "ai": "ai", "human": "human", "system": "system"}
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
        part, metadata = told
        if part["type"] not in ROLES:
            return
        [message] = messages_from_dict([{"type": part["type"], "data": part}])
        growing, is_last = self._open.get(message.id or ""), getattr(message, "chunk_position", None) == "last"
        if growing is None and is_last and not message.content:
            growing = self._newest_of(metadata)  # LangChain ends messages whose model does not, under an id of its own
        if growing is None:
            growing = self._open[message.id or ""] = _Growing(
                message.id or "", ROLES[part["type"]], metadata, namespace
            )
            yield growing.begin()
        yield from growing.grow(message)
        if is_last or not isinstance(message, AIMessageChunk):
            yield from self._finish(growing)

    def finish(self, namespace: tuple[str, ...], node: str) -> Iterator[_Told]:
        """Finishes what a node has begun, once that has ended."""
        for growing in [*self._open.values()]:
            if (growing.namespace, growing.node) == (namespace, node):
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
        place = metadata.get("langgraph_checkpoint_ns")
        same = [one for one in self._open.values() if one.metadata.get("langgraph_checkpoint_ns") == place]
        return same[-1] if same else None


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
    def node(self) -> str:
        return str(self.metadata.get("langgraph_node", ""))

    def event(self, data: dict[str, Any]) -> _Told:
        return _Told(self.namespace, self.node, {**data, "message_id": self.message_id})

    def begin(self) -> _Told:
        known = {shown: self.metadata[name] for name, shown in METADATA.items() if name in self.metadata}
        return self.event({"event": "message-start", "role": self.role, "id": self.message_id, "metadata": known})

    def grow(self, message: BaseMessage) -> Iterator[_Told]:
        if isinstance(message, AIMessageChunk):
            self._usage = add_usage(self._usage, message.usage_metadata) if message.usage_metadata else self._usage
        for block in message.content_blocks:
            yield from self._take(dict(block))

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
