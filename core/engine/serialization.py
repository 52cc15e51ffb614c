"""Messages as bytes and back: JSON for dataclasses and pydantic models, and what a program adds for its own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, TypeAdapter

from core.engine.exceptions import MessageNotSerializable

__all__ = [
    "JSON_DATA_CONTENT_TYPE", "JsonMessageSerializer", "MessageSerializer", "SerializationRegistry", "UnknownPayload",
    "try_get_known_serializers_for_type",
]  # fmt: skip

JSON_DATA_CONTENT_TYPE = "application/json"

#: What JSON is made of.
PLAIN = {str, int, float, bool, dict, list, type(None)}

T = TypeVar("T")


class MessageSerializer(Protocol[T]):
    """Of one type of messages, for one content type."""

    @property
    def data_content_type(self) -> str: ...

    @property
    def type_name(self) -> str: ...

    def serialize(self, message: T) -> bytes: ...

    def deserialize(self, payload: bytes) -> T: ...


@dataclass(frozen=True)
class UnknownPayload:
    """A message of a type that has no serializer here, as it came."""

    type_name: str
    data_content_type: str
    payload: bytes


class JsonMessageSerializer(Generic[T]):
    """Of a dataclass or a pydantic model, nested ones and unions too. What is read is checked against the types."""

    def __init__(self, cls: type[T]) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(cls)
        self._name = cls.__name__

    @property
    def data_content_type(self) -> str:
        return JSON_DATA_CONTENT_TYPE

    @property
    def type_name(self) -> str:
        return self._name

    def serialize(self, message: T) -> bytes:
        return self._adapter.dump_json(message)

    def deserialize(self, payload: bytes) -> T:
        """Raises ValueError when the payload does not fit the type."""
        return self._adapter.validate_json(payload)


def try_get_known_serializers_for_type(cls: type[Any]) -> list[MessageSerializer[Any]]:
    """Those that are there without anybody's doing: JSON for dataclasses, pydantic models and what JSON is made of."""
    if is_dataclass(cls) or issubclass(cls, BaseModel) or cls in PLAIN:
        return [JsonMessageSerializer(cls)]
    return []


class SerializationRegistry:
    """The serializers of an engine, by type and content type."""

    def __init__(self) -> None:
        self._serializers: dict[tuple[str, str], MessageSerializer[Any]] = {}

    def add_serializer(self, serializer: MessageSerializer[Any] | Sequence[MessageSerializer[Any]]) -> None:
        """Takes the place of an earlier one for the same type and content type."""
        for one in serializer if isinstance(serializer, Sequence) else (serializer,):
            self._serializers[one.type_name, one.data_content_type] = one

    def is_registered(self, type_name: str, data_content_type: str) -> bool:
        return (type_name, data_content_type) in self._serializers

    def type_name(self, message: Any) -> str:
        """The name that the type of this message, or this type, goes by."""
        return message.__name__ if isinstance(message, type) else type(message).__name__

    def serialize(self, message: Any, *, type_name: str, data_content_type: str) -> bytes:
        """Raises MessageNotSerializable, a ValueError, when there is no serializer for it."""
        serializer = self._serializers.get((type_name, data_content_type))
        if serializer is None:
            raise MessageNotSerializable(
                f"no serializer for messages of type {type_name} as {data_content_type}."
                " Make it a dataclass or a pydantic model, or add one with register_msg_serializer."
            )
        return serializer.serialize(message)

    def deserialize(self, payload: bytes, *, type_name: str, data_content_type: str) -> Any:
        """The message, or UnknownPayload when there is no serializer for it."""
        serializer = self._serializers.get((type_name, data_content_type))
        if serializer is None:
            return UnknownPayload(type_name, data_content_type, payload)
        return serializer.deserialize(payload)
