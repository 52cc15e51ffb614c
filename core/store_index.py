"""By which texts the store of LangGraph projects finds items, and what gateways and workers say to each other of it.

Embedding is code of users, which only workers load. A worker that has an index runs tasks of a type that stands for it,
whose results are the vectors of texts. Values, no I/O.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from struct import iter_unpack
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Struct

from core.errors import BadTask, ConfigError
from core.tasks import in_words

__all__ = [
    "CAPABILITY", "METADATA", "Embedded", "StoreIndex", "ToEmbed", "indexes_in", "is_embedding", "is_of_an_index",
    "size_of", "store_index", "tasks_for",
]  # fmt: skip

#: How the capability begins by which workers with an index are found, before its digest; and the type of its tasks.
CAPABILITY, TASK_TYPE = "store.index:", "agents.embed."
#: Under which key of its metadata in the registry a worker tells of its indexes.
METADATA = "store_indexes"
#: Bytes of texts, and of vectors, that one task takes and gives: payloads and results have at most 256 KiB.
TASK_BYTES = 240 * 1024
#: Tasks for one item. What needs more is refused before anything is embedded.
MOST_TASKS = 32
FLOAT_BYTES = 4

Name = Annotated[str, Meta(max_length=1_000)]


class StoreIndex(Struct, frozen=True, kw_only=True):
    """What a `langgraph.json` says as `store.index`."""

    embed: Name  #: the function or model, as it is named there
    dims: Annotated[int, Meta(ge=1, le=32_768)]  #: numbers of a vector
    fields: Annotated[tuple[Name, ...], Meta(max_length=100)] = ("$",)  #: what is embedded of an item
    graphs: Annotated[tuple[Name, ...], Meta(max_length=1_000)] = ()  #: the types of task whose store has it

    @property
    def digest(self) -> str:
        """Stands for an index that gives the same vectors of the same items, whichever graphs have it."""
        return hashlib.sha256(orjson.dumps([self.embed, self.dims, self.fields])).hexdigest()[:16]

    @property
    def task_type(self) -> str:
        """That of the tasks that embed for it."""
        return f"{TASK_TYPE}{self.digest}"

    @property
    def capability(self) -> str:
        """What a worker has that runs these tasks."""
        return f"{CAPABILITY}{self.digest}"

    def __str__(self) -> str:
        return f"{self.embed!r} with {self.dims} dims of {', '.join(self.fields)}"


def store_index(told: Mapping[str, Any], graphs: Sequence[str]) -> StoreIndex:
    """What `store.index` of a project says, whose graphs are these types of task. Raises ConfigError."""
    fields = {name: told[name] for name in ("embed", "dims", "fields") if told.get(name)}
    try:
        return msgspec.convert({**fields, "graphs": graphs}, StoreIndex)
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise ConfigError(f"index: {where}: {what}") from None


def indexes_in(metadata: Mapping[str, Any]) -> list[StoreIndex]:
    """The indexes that a worker tells of in its metadata; none, if nothing there can be read."""
    try:
        return msgspec.convert(metadata.get(METADATA, ()), list[StoreIndex])
    except msgspec.ValidationError:
        return []


def is_embedding(task_type: str) -> bool:
    """Whether tasks of this type are those of an index."""
    return task_type.startswith(TASK_TYPE)


def is_of_an_index(name: str) -> bool:
    """Whether a capability or type of task is that of workers with an index, and of nobody else."""
    return name.startswith((CAPABILITY, TASK_TYPE))


class ToEmbed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The payload of such a task, either of the two: models may embed a query otherwise than what it is to find."""

    texts: list[str] = []
    query: str | None = None


class Embedded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of such a task. What the code of users raises is told in it: a failure would be tried again, and then
    be a dead letter."""

    vectors: str = ""  #: in base64, each number in 4 bytes, one vector behind the other
    error: str = ""

    @classmethod
    def of(cls, packed: Sequence[bytes]) -> Embedded:
        return cls(vectors=b64encode(b"".join(packed)).decode())

    def unpacked(self, count: int, dims: int) -> list[list[float]]:
        """The vectors. Raises ValueError: they are not so many, or not of so many numbers."""
        packed = b64decode(self.vectors, validate=True)
        if len(packed) != count * dims * FLOAT_BYTES:
            raise ValueError(f"{len(packed)} bytes are not {count} vectors of {dims} numbers")
        return [list(vector) for vector in iter_unpack(f"<{dims}f", packed)]


def tasks_for(texts: Sequence[str], dims: int) -> list[ToEmbed]:
    """The payloads of the tasks that embed these texts, in order, as few as take them and give their vectors. Raises
    BadTask, which names the cure: they are too many, or one is too long."""
    vectors_at_most = TASK_BYTES // -(-dims * FLOAT_BYTES * 4 // 3)
    asked: list[list[str]] = []
    room = 0
    for text in texts:
        size = size_of(text)
        if not asked or size > room or len(asked[-1]) == vectors_at_most:
            asked.append([])
            room = TASK_BYTES
        if len(asked) > MOST_TASKS:
            raise BadTask(
                f"{len(texts)} texts are to be embedded, more than {MOST_TASKS} tasks can take: name fewer fields as"
                " `index`, or put it in parts"
            )
        asked[-1].append(text)
        room -= size
    return [ToEmbed(texts=part) for part in asked]


def size_of(text: str) -> int:
    """The bytes that a text takes in a payload. Raises BadTask: they are too many."""
    size = len(orjson.dumps(text)) + 1
    if size > TASK_BYTES:
        raise BadTask(
            f"a text of {size} bytes is to be embedded, and at most {TASK_BYTES} can be: shorten the query, or name"
            " smaller fields as `index`; with index=False, an item is found by namespace and filter alone"
        )
    return size
