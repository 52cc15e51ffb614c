"""What a checkpoint says of a thread: its values, what runs next, and what that asks, without the graph.

LangGraph's own `get_state` needs the graph, which only workers have. How it names its channels tells the same: a node
is called by `branch:to:NODE` or, when several have to end before, by `join:A+B:NODE`. Of graphs that are called in
other ways, workers write down how (see `TRIGGERS`)."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.types import Interrupt, Send
from xxhash import xxh3_128_hexdigest

__all__ = ["TRIGGERS", "NextTask", "Snapshot", "snapshot_of"]

#: The key in the metadata of a checkpoint under which workers tell which channels call those nodes that names do not
#: tell everything about: see `worker.hosts.graph_shape`.
TRIGGERS = "triggers"
#: What only we need of the metadata of a checkpoint.
OURS = frozenset({TRIGGERS, "owner", "shared_with"})

CALLS, CALLS_AFTER = "branch:to:", "join:"
SENDS, START = "__pregel_tasks", "__start__"
#: Channels with the whole state, if it is no dict, or the graph is a function.
WHOLE = frozenset({"__root__", "__end__"})
ERROR, INTERRUPT, RETURN = "__error__", "__interrupt__", "__return__"
#: Writes that are no output of a node.
CONTROL = frozenset({ERROR, INTERRUPT, "__resume__", "__error_source_node__"})


@dataclass(frozen=True, slots=True)
class NextTask:
    """A node that runs next, or has run in this step already."""

    id: str
    name: str
    path: tuple[str | int, ...]
    namespace: str  #: of its checkpoints, if it is a subgraph
    interrupts: tuple[Interrupt, ...] = ()
    error: str | None = None
    result: Any = None  #: None: it has not ended
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A thread at one checkpoint. The values are those at the beginning of the step: what nodes have returned that ran
    beside one which has not ended yet is the `result` of their tasks."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    created_at: str  #: ISO 8601
    metadata: dict[str, Any]
    values: Any
    next: tuple[str, ...]
    tasks: tuple[NextTask, ...]

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        return tuple(interrupt for task in self.tasks for interrupt in task.interrupts)


def snapshot_of(found: CheckpointTuple, *, is_newest: bool) -> Snapshot:
    """What a checkpoint says. Of one that is the newest, questions that were answered are not told, nor does what has
    ended run next."""
    place, parent = found.config["configurable"], found.parent_config
    metadata: Mapping[str, Any] = found.metadata
    tasks = tuple(_with_writes(task, found, is_newest=is_newest) for task in _next_tasks(found))
    return Snapshot(
        thread_id=place["thread_id"],
        namespace=place["checkpoint_ns"],
        checkpoint_id=place["checkpoint_id"],
        parent_id=parent["configurable"]["checkpoint_id"] if parent else None,
        created_at=found.checkpoint["ts"],
        metadata={name: value for name, value in metadata.items() if name not in OURS},
        values=_values(found.checkpoint["channel_values"]),
        next=tuple(task.name for task in tasks if not (is_newest and task.has_ended)),
        tasks=tasks,
    )


def _values(values: Mapping[str, Any]) -> Any:
    for whole in WHOLE & values.keys():
        return values[whole]
    return {name: value for name, value in values.items() if not name.startswith(("__", CALLS, CALLS_AFTER))}


def _next_tasks(found: CheckpointTuple) -> Iterator[NextTask]:
    checkpoint, within = found.checkpoint, found.config["configurable"]["checkpoint_ns"]
    step = f"{found.metadata.get('step', -1) + 1}"

    def task(name: str, kind: str, path: tuple[str | int, ...], *parts: str) -> NextTask:
        namespace = f"{within}|{name}" if within else name
        salt = binascii.unhexlify(checkpoint["id"].replace("-", ""))
        digest = xxh3_128_hexdigest(salt + "".join((namespace, step, name, kind, *parts)).encode())
        task_id = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
        return NextTask(task_id, name, path, f"{namespace}:{task_id}")

    for place, send in enumerate(checkpoint["channel_values"].get(SENDS) or ()):
        if isinstance(send, Send):
            yield task(send.node, "__pregel_push", ("__pregel_push", place), f"{place}")
    for name, triggers in _triggers(found).items():
        if any(_calls(checkpoint, channel, name) for channel in triggers):
            yield task(name, "__pregel_pull", ("__pregel_pull", name), *sorted(triggers))


def _triggers(found: CheckpointTuple) -> dict[str, Sequence[str]]:
    """The channels that call each node, of those that may be called."""
    metadata: Mapping[str, Any] = found.metadata
    parts = found.config["configurable"]["checkpoint_ns"].split("|")
    within = "|".join(part.partition(":")[0] for part in parts if not part.isdigit())  # a number: called once more
    told: Mapping[str, Sequence[str]] = metadata.get(TRIGGERS, {}).get(within, {})
    named = (_called_by(channel) for channel in found.checkpoint["channel_values"])
    calls: dict[str, Sequence[str]] = {name: [f"{CALLS}{name}"] for name in sorted(filter(None, named))}
    if START in found.checkpoint["channel_values"] and not any(START in channels for channels in told.values()):
        calls = {START: [START], **calls}
    return {**calls, **told}


def _called_by(channel: str) -> str:
    """The node that a channel calls; empty: it calls none."""
    if channel.startswith(CALLS):
        return channel.removeprefix(CALLS)
    return channel.rpartition(":")[2] if channel.startswith(CALLS_AFTER) else ""


def _calls(checkpoint: Checkpoint, channel: str, node: str) -> bool:
    """Whether what stands in a channel begins a node that it has not begun yet."""
    if channel not in checkpoint["channel_values"]:
        return False
    value = checkpoint["channel_values"][channel]
    version = str(checkpoint["channel_versions"].get(channel, ""))
    if isinstance(value, (tuple, list)) and len(value) == 2:  # of a node that waits for the end of the others
        value, is_time = value
        if not is_time:
            return False
    elif channel.startswith(CALLS) and version != max(map(str, checkpoint["channel_versions"].values())):
        return False  # it is empty again after each step: another graph has left it behind in this thread
    if channel.startswith(CALLS_AFTER):
        awaited = channel.removeprefix(CALLS_AFTER).rpartition(":")[0]
        if len("+".join(value)) < len(awaited):
            return False
    seen = checkpoint["versions_seen"].get(node)
    return seen is None or version > str(seen.get(channel, ""))


def _with_writes(task: NextTask, found: CheckpointTuple, *, is_newest: bool) -> NextTask:
    """The task, with what it has left behind in this step."""
    writes = [(channel, value) for task_id, channel, value in found.pending_writes or () if task_id == task.id]
    output = [(channel, value) for channel, value in writes if channel not in CONTROL]
    asked = tuple(_interrupts(value for channel, value in writes if channel == INTERRUPT))
    error = next((value for channel, value in writes if channel == ERROR), None)
    return NextTask(
        task.id, task.name, task.path, task.namespace,
        interrupts=() if is_newest and output else asked,
        error=None if error is None else error if isinstance(error, str) else repr(error),
        result=_result(output) if output else None,
        has_ended=bool(output),
    )  # fmt: skip


def _interrupts(values: Iterable[Any]) -> Iterator[Interrupt]:
    for value in values:
        yield from value if isinstance(value, (list, tuple)) else [value]


def _result(output: Sequence[tuple[str, Any]]) -> Any:
    """What a node has returned. What it has written more than once to one channel is collected as LangGraph does."""
    returned: dict[str, list[Any]] = {}
    for channel, value in output:
        if channel == RETURN:
            return value
        if not channel.startswith(("__", CALLS, CALLS_AFTER)) or channel in WHOLE:
            returned.setdefault(channel, []).append(value)
    for whole in WHOLE & returned.keys():
        return returned[whole][-1]
    return {name: values[0] if len(values) == 1 else {"$writes": values} for name, values in returned.items()}
