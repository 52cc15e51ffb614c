"""What a run tells, as events of LangGraph's thread streams (the package `langchain_protocol` describes them)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.gateway.protocol_messages import MessageEvents
from core.gateway.records import RunRecord
from core.gateway.run_events import BREAKPOINT, INTERRUPT, error_of, interrupts_of
from core.run_stream import StreamChunk, place_of
from core.tasks import Task

__all__ = ["CHANNELS", "Event", "Numbers", "RunTold", "Wanted"]

CHANNELS = ("values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom")
#: Events are numbered by the time at which they were told, in ms since this one, and within a ms from 0 on, so that
#: every gateway gives them the same numbers, which go up over all runs of a thread and fit a number of JavaScript.
EPOCH_MS = 1_767_225_600_000
A_MS = 2**13
#: What is said of messages whose attempt has died.
DIED = "the worker died while this was told; another attempt goes on"
#: What is said of a run that has failed, or was never submitted, where nobody knows more.
NO_RECORD = {"message": "there is no record of how this run has failed"}
#: How a run has ended, in the words of the protocol, by its status.
ENDED = {"success": "completed", "interrupted": "interrupted", "error": "failed", "timeout": "failed"}


@dataclass(slots=True)
class Event:
    """One event. `id`: the same whenever it is told; None: that of its place in the run."""

    method: str
    data: Any
    namespace: Sequence[str] = ()
    id: str | None = None
    node: str = ""

    @property
    def channel(self) -> str:
        """The channel by which clients ask for it."""
        if self.method == "custom" and (name := self.data.get("name")):
            return f"custom:{name}"
        return "input" if self.method == "input.requested" else self.method

    def told(self, number: int, at_ms: int) -> dict[str, Any]:
        params = {"namespace": list(self.namespace), "timestamp": at_ms, "data": self.data}
        if self.node:
            params["node"] = self.node
        return {"type": "event", "event_id": self.id, "seq": number, "method": self.method, "params": params}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client has subscribed to: channels, below which namespaces (none: anywhere), and how deep below them."""

    channels: frozenset[str]
    namespaces: Sequence[Sequence[str]] = ()
    depth: int | None = None

    def takes(self, event: Event) -> bool:
        channel = event.channel
        if channel not in self.channels and channel.partition(":")[0] not in self.channels:
            return False
        return not self.namespaces or any(map(self._is_within(event.namespace), self.namespaces))

    def _is_within(self, namespace: Sequence[str]) -> Any:
        def within(above: Sequence[str]) -> bool:
            if len(above) > len(namespace) or (self.depth is not None and len(namespace) - len(above) > self.depth):
                return False
            return all(part in (found, found.partition(":")[0]) for part, found in zip(above, namespace, strict=False))

        return within


class Numbers:
    """The numbers of events, in the order in which they are told."""

    def __init__(self) -> None:
        self._last = 0

    def next(self, at_ms: int) -> int:
        self._last = max(self._last + 1, number_at(at_ms))
        return self._last


def number_at(at_ms: int) -> int:
    """The lowest number of an event that is told at that time or later."""
    return max(0, (at_ms - EPOCH_MS) * A_MS)


@dataclass(slots=True)
class RunTold:
    """Turns the chunks of a run into events."""

    run: RunRecord
    at_ms: int = 0  #: when the last event was told; 0: none was
    _attempt: int = 0
    _messages: MessageEvents = field(default_factory=MessageEvents)
    _subgraphs: dict[tuple[str, ...], str] = field(default_factory=dict)  #: those that run, and their names
    _seen: set[tuple[str, ...]] = field(default_factory=set)
    _tool_calls: dict[str, str] = field(default_factory=dict)  #: ids of the calls that nodes answer, by their task
    _asked: set[str] = field(default_factory=set)

    def chunk(self, chunk: StreamChunk) -> Iterator[Event]:
        first, self.at_ms = not self.at_ms, place_of(chunk.id)[0]
        if first:
            yield self._lifecycle((), "running", graph_name=self.run.graph_id)
        yield from self._named(self._events(chunk), chunk.id)

    def end(self, task: Task | None, ended: str | None = None) -> Iterator[Event]:
        """The last events of a run. `task`: None: the run was one that asked, and it goes on as another one; or there
        is no record of the task any more, and its run has `ended` with this status."""
        yield from self._named(self._end(task, ended), "end")

    def _named(self, events: Iterator[Event], place: str) -> Iterator[Event]:
        for number, event in enumerate(events):
            event.id = event.id or f"{self.run.run_id}:{place}.{number}"
            yield event

    def _end(self, task: Task | None, ended: str | None) -> Iterator[Event]:
        if not self.at_ms:
            self.at_ms = int(self.run.created_at.timestamp() * 1000)
            yield self._lifecycle((), "running", graph_name=self.run.graph_id)
        error = error_of(task) if task is not None else NO_RECORD if ended in ("error", "timeout") else None
        yield from self._told_of_messages(self._messages.break_off(error["message"] if error else "the run is over"))
        if task is not None:
            yield from self._questions(interrupts_of(task), ())
        status = _status(task, bool(self._asked)) if ended is None else ENDED[ended]
        for namespace in reversed([*self._subgraphs]):
            yield from self._subgraph_ended(namespace, "completed" if status == "completed" else status, None)
        told = {"error": error["message"]} if status == "failed" and error else {}
        yield self._lifecycle((), status, graph_name=self.run.graph_id, **told)

    def _events(self, chunk: StreamChunk) -> Iterator[Event]:
        if self._attempt and chunk.attempt > self._attempt:
            yield from self._told_of_messages(self._messages.break_off(DIED))
        self._attempt = chunk.attempt
        if chunk.is_left_out:
            return  # none of these events says so
        if chunk.mode == "messages":
            yield from self._told_of_messages(self._messages.take(chunk.data, chunk.namespace))
        elif chunk.mode == "updates":
            yield from self._updates(chunk.data, chunk.namespace)
        elif chunk.mode == "tasks":
            yield from self._task(chunk.data, chunk.namespace)
        elif chunk.mode in DATA_OF:
            yield Event(chunk.mode, DATA_OF[chunk.mode](chunk.data), chunk.namespace)

    def _updates(self, data: Mapping[str, Any], namespace: tuple[str, ...]) -> Iterator[Event]:
        yield from self._questions(data.get(INTERRUPT) or (), namespace)
        for node, update in data.items():
            if node != INTERRUPT:
                yield Event("updates", {"node": node, "values": update}, namespace)

    def _task(self, data: Mapping[str, Any], namespace: tuple[str, ...]) -> Iterator[Event]:
        if "result" not in data:
            yield from self._begun(data, namespace)
        yield Event("tasks", data, namespace)
        if "result" in data:
            ended = (*namespace, f"{data['name']}:{data['id']}")
            yield from self._told_of_messages(self._messages.finish("|".join(ended)))
            if ended in self._subgraphs:
                status = "interrupted" if data.get("interrupts") else "failed" if data.get("error") else "completed"
                yield from self._subgraph_ended(ended, status, data.get("error"))

    def _begun(self, data: Mapping[str, Any], namespace: tuple[str, ...]) -> Iterator[Event]:
        """That a subgraph has begun, if this is the first of its nodes."""
        given = data.get("input")
        call = given.get("tool_call") if isinstance(given, dict) else None
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            self._tool_calls[data["id"]] = call["id"]
        if not namespace or namespace in self._seen:
            return
        self._seen.add(namespace)
        node, _, task_id = namespace[-1].partition(":")
        agent = (data.get("metadata") or {}).get("lc_agent_name")
        name = self._subgraphs[namespace] = agent or node
        caused = agent and self._tool_calls.get(task_id)
        cause = {"cause": {"type": "toolCall", "tool_call_id": caused}} if caused else {}
        yield self._lifecycle(
            namespace, "started", graph_name=name, namespace=list(namespace), trigger_call_id=task_id, **cause
        )

    def _subgraph_ended(self, namespace: tuple[str, ...], status: str, error: Any) -> Iterator[Event]:
        told = {"error": f"{error}"} if status == "failed" and error else {}
        yield self._lifecycle(namespace, status, graph_name=self._subgraphs.pop(namespace), **told)

    def _questions(self, asked: Sequence[Mapping[str, Any]], namespace: Sequence[str]) -> Iterator[Event]:
        for question in asked:
            if (name := question["id"]) not in self._asked and not name.startswith(BREAKPOINT):
                self._asked.add(name)
                data = {"interrupt_id": name, "payload": question["value"], "value": question["value"]}
                yield Event("input.requested", data, namespace, self._id("input", namespace, name))

    def _told_of_messages(self, told: Iterator[Any]) -> Iterator[Event]:
        for one in told:
            yield Event("messages", one.data, one.namespace, node=one.node)

    def _lifecycle(self, where: Sequence[str], status: str, **more: Any) -> Event:
        return Event("lifecycle", {"event": status, **more}, where, self._id("lc", where, status))

    def _id(self, kind: str, namespace: Sequence[str], name: str) -> str:
        """The id of an event that stands for more than one chunk. Clients read the run from it."""
        return f"synth:{self.run.run_id}:{kind}|{'|'.join(namespace)}|{name}"


def _status(task: Task | None, has_asked: bool) -> str:
    """How a run is over, in the words of the protocol. One that has stopped at a breakpoint is completed there."""
    if task is None or not task.status.ended:
        return "interrupted" if has_asked else "completed"
    return {"completed": "completed", "cancelled": "interrupted"}.get(task.status, "failed")


def _values(data: Any) -> Any:
    return {name: value for name, value in data.items() if name != INTERRUPT} if isinstance(data, dict) else data


def _custom(data: Any) -> dict[str, Any]:
    name = data.get("name") if isinstance(data, dict) else None
    return {**({"name": name} if isinstance(name, str) and name else {}), "payload": data}


def _checkpoint(data: Mapping[str, Any]) -> dict[str, Any]:
    metadata, before = data["metadata"], (data.get("parent_config") or {}).get("configurable", {})
    parent = {"parent_id": before["checkpoint_id"]} if "checkpoint_id" in before else {}
    checkpoint_id = data["config"]["configurable"]["checkpoint_id"]
    return {"id": checkpoint_id, **parent, "step": metadata["step"], "source": metadata["source"]}


#: What is told of chunks that are events of the same name, by their mode.
DATA_OF: Mapping[str, Callable[[Any], Any]] = {
    "values": _values,
    "custom": _custom,
    "checkpoints": _checkpoint,
    "tools": lambda data: data,
}
