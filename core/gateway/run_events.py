"""What a run tells, as the events that clients of LangGraph's server know."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterator
from functools import partial
from typing import Any

from core.client.run_streams import RunStream
from core.gateway.hierarchy import Hierarchy, asks
from core.gateway.message_parts import MessageParts
from core.gateway.problems import Problem
from core.gateway.records import RunRecord
from core.gateway.run_requests import OF_THE_GRAPH
from core.gateway.sse import ServerEvent
from core.run_stream import StreamChunk, place_of
from core.tasks import Task

__all__ = ["BEGINNINGS", "BREAKPOINT", "INTERRUPT", "error_of", "interrupts_of", "run_events", "run_over", "told_place"]

#: How the ids of waits begin that stand for a stop before or after a node, which clients are not told as a question.
BREAKPOINT = "breakpoint:"
INTERRUPT = "__interrupt__"
#: Instead of the id of an event: all that is kept. The first is what chat front ends say that join a run.
BEGINNINGS = ("-1", "-", "0")


async def run_events(
    hierarchy: Hierarchy, run: RunRecord, modes: Collection[str] = (), last_id: str = ""
) -> AsyncGenerator[ServerEvent, None]:
    """The events of a run behind the one with the id `last_id`, in these modes, by default those of the run. The last
    one is `end`, once the thread is free for the next run.

    Nothing is told twice and nothing is left out when it goes on after a broken connection, at whatever gateway."""
    teller = _Teller(run, frozenset(modes or run.modes), last_id)
    if not last_id:
        yield teller.begin(attempt=1)
    stream = RunStream(hierarchy.client, run.task_id, (), teller.begins_after, partial(run_over, hierarchy, run))
    async for chunk in stream:
        if chunk.mode == "lifecycle":
            if "status" not in chunk.data:
                run = await hierarchy.records.run(run.thread_id, run.run_id) or run
            continue
        if run.until is not None and place_of(chunk.id) > place_of(run.until):
            break
        for event in teller.tell(chunk):
            yield event
    for event in await _ending(hierarchy, run, teller):
        yield event


async def run_over(hierarchy: Hierarchy, run: RunRecord) -> Task:
    """The task of a run, once the run is over."""
    if run.until is not None and (task := await hierarchy.task(run.task_id)):
        return task
    return await hierarchy.over(run.task_id, run.attempts_before)


class _Teller:
    """Turns chunks into events."""

    def __init__(self, run: RunRecord, modes: frozenset[str], last_id: str) -> None:
        self._run = run
        self._modes = modes
        self._of_the_graph = {"updates", *(OF_THE_GRAPH[mode] for mode in modes)}  #: those told within its events
        self._attempt = 1
        self._told = told_place(last_id) if last_id else None  #: what the client has
        self._parts = MessageParts() if "messages" in modes else None
        self.told_interrupt = False

    @property
    def begins_after(self) -> str:
        """Behind which chunk it has to read. Parts of messages add up, so all of them are read again."""
        return self._run.after if self._parts or self._told is None else "{}-{}/{}".format(*self._told)

    def begin(self, attempt: int) -> ServerEvent:
        self._attempt = attempt
        return ServerEvent("metadata", {"run_id": self._run.run_id, "attempt": attempt})

    def tell(self, chunk: StreamChunk) -> Iterator[ServerEvent]:
        events = list(self._events(chunk))
        if self._told is not None and place_of(chunk.id) <= self._told:
            return
        attempt = chunk.attempt - self._run.attempts_before
        if attempt > self._attempt:
            yield self.begin(attempt)
        for place, event in enumerate(events, 1):  # with an id, all before it counts as told
            yield event if place < len(events) else ServerEvent(event.event, event.data, chunk.id)

    def _events(self, chunk: StreamChunk) -> Iterator[ServerEvent]:
        if chunk.namespace and not self._run.subgraphs and chunk.mode != "messages":
            return
        within = "|".join(("", *chunk.namespace)) if self._run.subgraphs else ""
        if chunk.mode != "messages":
            has_paused = isinstance(chunk.data, dict) and INTERRUPT in chunk.data
            if has_paused and chunk.mode == "updates" and "updates" not in self._modes:
                self.told_interrupt = True  # whoever wants no updates is told all the same
                yield ServerEvent(f"values{within}", chunk.data)
            elif chunk.mode in self._modes and (chunk.mode != "events" or self._is_asked_for(chunk)):
                self.told_interrupt = self.told_interrupt or has_paused
                yield ServerEvent(f"{chunk.mode}{within}", chunk.data)
        elif not self._modes & {"messages", "messages-tuple"}:
            return
        elif self._parts is None:
            yield ServerEvent(f"messages{within}", chunk.data)
        elif chunk.is_left_out:
            yield ServerEvent(f"messages/metadata{within}", chunk.data)  # of the others, clients make messages
        else:
            for name, data in self._parts.take(chunk.data):
                yield ServerEvent(f"messages/{name}{within}", data)

    def _is_asked_for(self, chunk: StreamChunk) -> bool:
        """Whether an event of LangChain is for the client. What the graph itself streams is among its events, too, as
        `[namespace, mode, data]`; who wants no subgraphs gets it without the namespace."""
        match chunk.data:
            case {"event": "on_chain_stream", "parent_ids": [], "data": {"chunk": [namespace, mode, _] as streamed}}:
                if not self._run.subgraphs:
                    del streamed[0]
                return mode in self._of_the_graph and (self._run.subgraphs or not namespace)
        return True


async def _ending(hierarchy: Hierarchy, run: RunRecord, teller: _Teller) -> list[ServerEvent]:
    """How the run has ended, and that it has."""
    task = await hierarchy.over(run.task_id, run.attempts_before) if run.until is None else None
    events: list[ServerEvent] = []
    if task is not None and asks(task) and not teller.told_interrupt and (asked := interrupts_of(task)):
        events.append(ServerEvent("values", {INTERRUPT: asked}))
    if task is not None and (error := error_of(task)):
        events.append(ServerEvent("error", error))
    return [*events, ServerEvent("end")]


def interrupts_of(task: Task) -> list[dict[str, Any]]:
    """The open questions of a task, as LangGraph tells interrupts."""
    return [
        {"value": wait.asks, "id": wait.id}
        for wait in task.waits
        if wait.is_open_question and not wait.id.startswith(BREAKPOINT)
    ]


def error_of(task: Task) -> dict[str, str] | None:
    """What is told of a task that has ended in another way than it should; None: it has not."""
    if not task.status.ended or task.status == "completed":
        return None
    if task.error is None:
        return {"error": task.status.value, "message": f"the run was {task.status}"}
    return {"error": task.error.type, "message": task.error.message}


def told_place(last_id: str) -> tuple[int, int, int]:
    """Where in its stream the chunk stands that a client has been told last. Raises Problem: there is no such id."""
    try:
        return place_of(last_id)
    except ValueError:
        raise Problem(422, f"Last-Event-ID: there is no event {last_id[:80]!r}; give the id of one") from None
