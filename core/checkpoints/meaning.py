"""What the items of a store mean: the vectors of their texts, and how near they are to that of a query.

The vectors of an item are stored behind its JSON, so both are written, encrypted and forgotten as one. A search reads
and compares all that its namespace and filter find, so it is for thousands of items, and not for millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from operator import mul
from struct import iter_unpack, pack, unpack

from langgraph.store.base import IndexConfig, PutOp, ensure_embeddings, get_text_at_path

from core.errors import BadTask, ConfigError

__all__ = ["Meaning", "joined", "parted"]

#: What is between the JSON of an item and its vectors. JSON has no such byte.
_BETWEEN = b"\0"
_FLOAT_BYTES = 4


def joined(value_json: bytes, vectors: bytes) -> bytes:
    """An item and its vectors, as they are stored."""
    return value_json + _BETWEEN + vectors if vectors else value_json


def parted(stored: bytes) -> tuple[bytes, bytes]:
    """The JSON of an item and its vectors; no bytes: it has none."""
    value_json, _, vectors = stored.partition(_BETWEEN)
    return value_json, vectors


class Meaning:
    """Embeds texts as an index of LangGraph says."""

    def __init__(self, index: IndexConfig) -> None:
        """Raises ConfigError for an index that cannot be used."""
        dims, embed = index.get("dims"), index.get("embed")
        if type(dims) is not int or dims < 1:
            raise ConfigError(f"index: give as `dims` how many numbers a vector of the model has, not {dims!r}")
        if embed is None:
            raise ConfigError(
                "index: give as `embed` a function of a list of texts, Embeddings of LangChain, or a name"
            )
        try:
            self._embeddings = ensure_embeddings(embed)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"index: `embed` cannot be used: {error}") from None
        self._dims = dims
        self._fields = tuple(index.get("fields") or ("$",))

    async def vectors_of(self, puts: Sequence[PutOp]) -> list[bytes]:
        """The vectors of each item; none of one that is deleted, is not to be found, or has no text there. Raises what
        the model does, and BadTask: it gives others than the index says."""
        texts = [list(self._texts(put)) for put in puts]
        every = list(dict.fromkeys(text for each in texts for text in each))
        if not every:
            return [b""] * len(puts)
        known = dict(zip(every, await self.of_texts(every), strict=True))
        return [b"".join(known[text] for text in each) for each in texts]

    def _texts(self, put: PutOp) -> Iterator[str]:
        if put.value is None or put.index is False:
            return
        for path in self._fields if put.index is None else put.index:
            yield from get_text_at_path(dict(put.value), path)

    async def of_texts(self, texts: list[str]) -> list[bytes]:
        """The vector of each. Raises as `vectors_of`."""
        embedded = await self._embeddings.aembed_documents(texts)
        if len(embedded) != len(texts):
            raise BadTask(f"the embeddings of the store gave {len(embedded)} vectors for {len(texts)} texts.")
        return [*map(self._packed, embedded)]

    async def of(self, query: str) -> bytes:
        """The vector of a query. Raises as `vectors_of`."""
        return self._packed(await self._embeddings.aembed_query(query))

    def numbers(self, vector: bytes) -> tuple[float, ...]:
        """A vector, as `score` takes the one that is wanted."""
        return unpack(f"<{self._dims}f", vector)

    def _packed(self, vector: Sequence[float]) -> bytes:
        """A vector of length 1, so that the cosine of two is their product."""
        if len(vector) != self._dims:
            raise BadTask(f"the embeddings of the store have {len(vector)} numbers: say so as `dims` of its index.")
        length = sqrt(sum(map(mul, vector, vector))) or 1.0
        return pack(f"<{self._dims}f", *(each / length for each in vector))

    def score(self, vectors: bytes, wanted: Sequence[float]) -> float | None:
        """How near the nearest of these vectors is to the one that is wanted, from -1 to 1; None: there is none, or
        they have another number of dimensions."""
        if not vectors or len(vectors) % (self._dims * _FLOAT_BYTES):
            return None
        nearest: float = max(sum(map(mul, wanted, vector)) for vector in iter_unpack(f"<{self._dims}f", vectors))
        return nearest
