"""Between LangGraph's values and what a Storage keeps. Nothing here acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from core.checkpoints.encryption import Sealing
from core.checkpoints.storage import ChannelValue, CheckpointPut, PendingWrite, StoredCheckpoint, WritesPut
from core.errors import BadTask
from core.redis_backend.thread_scripts import value_name, write_name

__all__ = ["Encoding", "config_of", "reseal", "thread_of"]


class Encoding:
    """How the values of one thread are written and read."""

    def __init__(self, serde: SerializerProtocol, sealing: Sealing, thread_id: str) -> None:
        self._serde = serde
        self._sealing = sealing
        self._thread_id = thread_id

    def checkpoint(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, changed: ChannelVersions
    ) -> CheckpointPut:
        """What `put` stores."""
        place = config["configurable"]
        ns, checkpoint_id = named("checkpoint_ns", place.get("checkpoint_ns", "")), named("id", checkpoint["id"])
        values = checkpoint["channel_values"]
        full = get_checkpoint_metadata(config, metadata)
        rest = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        return CheckpointPut(
            ns=ns,
            checkpoint_id=checkpoint_id,
            parent_id=place.get("checkpoint_id") or "",
            root_id=full.get("parents", {}).get("", "") if ns else "",
            run_id=str(full.get("run_id", "")),
            is_chained=_is_chained(full, checkpoint),
            versions=tuple([(channel, str(version)) for channel, version in checkpoint["channel_versions"].items()]),
            changed=tuple([self._channel_value(ns, name, str(changed[name]), values) for name in changed]),
            body=self._write(self._typed((rest, full), "metadata"), f"c{ns}\0{checkpoint_id}"),
        )

    def writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> WritesPut:
        """What `put_writes` stores."""
        place = config["configurable"]
        ns, checkpoint_id = named("checkpoint_ns", place.get("checkpoint_ns", "")), place["checkpoint_id"]
        named("task id", task_id)
        return WritesPut(
            ns=ns,
            checkpoint_id=checkpoint_id,
            task_id=task_id,
            writes=tuple(
                [
                    self._pending(ns, checkpoint_id, task_id, WRITES_IDX_MAP.get(name, at), name, task_path, value)
                    for at, (name, value) in enumerate(writes)
                ]
            ),
        )

    def as_tuple(self, stored: StoredCheckpoint, thread_id: object) -> CheckpointTuple:
        """What `get_tuple` and `list` give. Raises CheckpointUnreadable."""
        ns, checkpoint_id = stored.ns, stored.checkpoint_id
        rest, metadata = self._read(stored.body, f"c{ns}\0{checkpoint_id}")
        values = {
            one.channel: self._read(one.value, value_name(ns, one.channel, one.version))
            for one in stored.values
            if one.value is not None
        }
        return CheckpointTuple(
            config=config_of(thread_id, ns, checkpoint_id),
            checkpoint=cast(Checkpoint, {**rest, "channel_values": values}),
            metadata=metadata,
            parent_config=config_of(thread_id, ns, stored.parent_id) if stored.parent_id else None,
            pending_writes=self._ordered(stored),
        )

    def metadata(self, stored: StoredCheckpoint) -> CheckpointMetadata:
        """Of a stored checkpoint, without the rest."""
        return cast(CheckpointMetadata, self._read(stored.body, f"c{stored.ns}\0{stored.checkpoint_id}")[1])

    def _channel_value(self, ns: str, channel: str, version: str, values: Mapping[str, Any]) -> ChannelValue:
        if "\0" in channel or channel not in values:
            return ChannelValue(named("channel", channel), version, None)
        typed = self._typed(values[channel], channel)
        return ChannelValue(channel, version, self._write(typed, value_name(ns, channel, version)))

    def _pending(
        self, ns: str, checkpoint_id: str, task_id: str, index: int, channel: str, task_path: str, value: Any
    ) -> PendingWrite:
        plain = msgspec.msgpack.encode((channel, task_path, *self._typed(value, channel)))
        return PendingWrite(index, self._seal(plain, write_name(ns, checkpoint_id, task_id, index)))

    def _ordered(self, stored: StoredCheckpoint) -> list[tuple[str, str, Any]]:
        found = []
        for task_id, index, value in stored.writes:
            plain = self._unseal(value, write_name(stored.ns, stored.checkpoint_id, task_id, index))
            channel, task_path, *typed = msgspec.msgpack.decode(plain)
            key = writes_sort_key(task_path, task_id, index)
            found.append((key, (task_id, channel, self._serde.loads_typed((typed[0], typed[1])))))
        return [write for _, write in sorted(found, key=lambda each: each[0])]

    def _typed(self, value: Any, channel: str) -> tuple[str, bytes]:
        try:
            return self._serde.dumps_typed(value)
        except (TypeError, ValueError) as error:
            raise BadTask(
                f"the value of {channel!r} cannot be stored: {error}. Leave it out of the state, or put plain data, a"
                " dataclass or a Pydantic model in its place."
            ) from error

    def _write(self, typed: tuple[str, bytes], name: str) -> bytes:
        return self._seal(msgspec.msgpack.encode(typed), name)

    def _read(self, stored: bytes, name: str) -> Any:
        kind, data = msgspec.msgpack.decode(self._unseal(stored, name))
        return self._serde.loads_typed((kind, data))

    def _seal(self, plain: bytes, name: str) -> bytes:
        return self._sealing.seal(plain, f"{self._thread_id}\0{name}")

    def _unseal(self, stored: bytes, name: str) -> bytes:
        return self._sealing.unseal(stored, f"{self._thread_id}\0{name}")


def _is_chained(metadata: CheckpointMetadata, checkpoint: Checkpoint) -> bool:
    counted = metadata.get("counters_since_delta_snapshot", ())
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    return any(channel in versions and channel not in values for channel in counted) if counted else False


def reseal(
    stored: StoredCheckpoint, sealing: Sealing, source: str, target: str
) -> tuple[CheckpointPut, list[WritesPut]]:
    """A stored checkpoint of the thread `source` as it is stored for the thread `target`."""

    def moved(value: bytes, name: str) -> bytes:
        return sealing.seal(sealing.unseal(value, f"{source}\0{name}"), f"{target}\0{name}")

    ns, checkpoint_id = stored.ns, stored.checkpoint_id
    values = [
        ChannelValue(one.channel, one.version, moved(one.value, value_name(ns, one.channel, one.version)))
        for one in stored.values
        if one.value is not None
    ]
    put = CheckpointPut(
        ns=ns,
        checkpoint_id=checkpoint_id,
        parent_id=stored.parent_id,
        root_id=stored.root_id,
        run_id=stored.run_id,
        is_chained=stored.is_chained,
        versions=stored.versions,
        changed=tuple(values),
        body=moved(stored.body, f"c{ns}\0{checkpoint_id}"),
    )
    writes = [
        WritesPut(ns, checkpoint_id, task_id, (PendingWrite(index, moved(value, name)),))
        for task_id, index, value in stored.writes
        if (name := write_name(ns, checkpoint_id, task_id, index))
    ]
    return put, writes


def config_of(thread_id: object, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}}


def thread_of(config: RunnableConfig) -> str:
    """The id of the thread of a config; a number counts as its digits. Raises BadTask."""
    thread_id = config["configurable"].get("thread_id", "")
    if not (text := str(thread_id)):
        raise BadTask("a thread id is missing: pass config={'configurable': {'thread_id': '...'}}.")
    return named("thread_id", text)


def named(what: str, text: str) -> str:
    """The text. Raises BadTask if it cannot be part of a name."""
    if "\0" in text:
        raise BadTask(f"{what} {text[:100]!r} has a NUL character: take it out, since no name here can have one.")
    return text
