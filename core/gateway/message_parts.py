"""The stream mode `messages`: each message as it grows, put together from its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message, messages_from_dict

__all__ = ["MessageParts"]


class MessageParts:
    """The messages of one run so far."""

    def __init__(self) -> None:
        self._messages: dict[str, BaseMessage] = {}

    def take(self, told: Any) -> Iterator[tuple[str, Any]]:
        """Takes `[part, metadata]`. Gives what is to be told of it: `metadata` of a new message, and then what there is
        of the message, as `partial` or, if it came whole, `complete`. Of a type that LangChain does not know, it is
        told as it came."""
        part, metadata = told
        try:
            [message] = messages_from_dict([{"type": part["type"], "data": part}])
        except ValueError:
            yield "metadata", {f"{part.get('id') or ''}": {"metadata": metadata}}
            yield "complete", [part]
            return
        name = message.id or ""
        if name not in self._messages:
            yield "metadata", {name: {"metadata": metadata}}
        before = self._messages.get(name)
        if isinstance(before, BaseMessageChunk) and isinstance(message, BaseMessageChunk):
            with suppress(TypeError, ValueError):  # they do not add up: what comes stands for itself
                message = before + message
        self._messages[name] = message
        if isinstance(message, BaseMessageChunk):
            yield "partial", [message_chunk_to_message(message).model_dump()]
        else:
            yield "complete", [message.model_dump()]
