"""The stream mode `messages`: each message as it grows, put together from its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message, messages_from_dict

__all__ = ["MessageParts"]


class MessageParts:
    """The messages of one run so far."""

    def __init__(self) -> None:
        self._messages: dict[str, BaseMessage] = {}

    def take(self, told: Any) -> Iterator[tuple[str, Any]]:
        """Takes `[part, metadata]`. Gives what is to be told of it: `metadata` of a new message, and then what there is
        of the message, as `partial` or, if it came whole, `complete`."""
        part, metadata = told
        [message] = messages_from_dict([{"type": part["type"], "data": part}])
        name = message.id or ""
        if name not in self._messages:
            yield "metadata", {name: {"metadata": metadata}}
        before = self._messages.get(name)
        if isinstance(before, BaseMessageChunk) and isinstance(message, BaseMessageChunk):
            message = before + message
        self._messages[name] = message
        if isinstance(message, BaseMessageChunk):
            yield "partial", [message_chunk_to_message(message).model_dump()]
        else:
            yield "complete", [message.model_dump()]
