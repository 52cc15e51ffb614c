"""Embeds texts for those that do not load the code of users: in tasks, whose handler is that of the project's index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from core.errors import BadTask
from core.store_index import Embedded, ToEmbed

if TYPE_CHECKING:
    from core.checkpoints.meaning import Meaning

__all__ = ["Embedder"]

#: Characters of what is told of an error.
ERROR_CHARACTERS = 500


class Embedder:
    """Stands where a graph does: its runs share processes, whose loop none of them may block, with those of graphs."""

    def __init__(self, meaning: Meaning) -> None:
        self._meaning = meaning

    async def ainvoke(self, payload: Any, *_: Any, **__: Any) -> dict[str, str]:
        """An Embedded, as JSON values. Raises BadTask: `payload` is no ToEmbed."""
        try:
            asked = msgspec.convert(payload, ToEmbed)
        except msgspec.ValidationError as error:
            raise BadTask(f"these are no texts to embed: {error}") from None
        try:
            packed = await self._packed(asked)
        except Exception as error:
            told = Embedded(error=f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS])
        else:
            told = Embedded.of(packed)
        fields: dict[str, str] = msgspec.to_builtins(told)
        return fields

    async def _packed(self, asked: ToEmbed) -> list[bytes]:
        return (
            await self._meaning.of_texts(asked.texts) if asked.query is None else [await self._meaning.of(asked.query)]
        )
