"""An event in a line, for people: when, whom it is about, and what has happened, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from core.cli.task_text import progress_text
from core.event_types import EventType
from core.printable import escaped_json, printable

if TYPE_CHECKING:
    from core.agent_event import AgentEvent

__all__ = ["print_event", "print_event_json", "print_timeline"]

GOOD, BAD, ODD, PLAIN = "green", "red", "yellow", None

E = EventType
#: How it is told, and its colour. A pair of braces holds a field of its data, or something of `_Facts`.
WORDS: Mapping[str, tuple[str, str | None]] = {
    E.TASK_SUBMITTED: ("{task_type} was submitted by {client}", PLAIN),
    E.TASK_REFUSED: ("was refused: {reason}", BAD),
    E.TASK_ASSIGNED: ("goes to {distributor}", PLAIN),
    E.TASK_RETURNED: ("came back from {distributor}{: reason}", ODD),
    E.TASK_WAITING: ("waits{ for children}", PLAIN),
    E.QUESTION_ASKED: ("asks question {question}{, node}", ODD),
    E.QUESTION_ANSWERED: ("question {question} was answered by {by}", PLAIN),
    E.QUESTION_EXPIRED: ("nobody has answered question {question} in time: its default counts", ODD),
    E.TASK_RETRYING: ("will be tried again, as attempt {attempt}", ODD),
    E.TASK_COMPLETED: ("has completed", GOOD),
    E.TASK_FAILED: ("has failed: {error}", BAD),
    E.TASK_CANCELLED: ("was cancelled", ODD),
    E.TASK_ABANDONED: ("was given up: {reason}", BAD),
    E.TASK_REPLAYED: ("runs again as {replayed_as}", PLAIN),
    E.TASK_PURGED: ("is no dead letter any more", PLAIN),
    E.TASK_PROGRESS: ("is at {progress}", PLAIN),
    E.TASK_OUTPUT: ("says: {text}", PLAIN),
    E.SCHEDULE_SET: ("schedule {schedule} was set by {by}", PLAIN),
    E.SCHEDULE_REMOVED: ("schedule {schedule} was removed by {by}", PLAIN),
    E.SCHEDULE_PAUSED: ("schedule {schedule} was paused by {by}", ODD),
    E.SCHEDULE_RESUMED: ("schedule {schedule} was resumed by {by}", PLAIN),
    E.SCHEDULE_FIRED: ("was opened by schedule {schedule}, for {at}", PLAIN),
    E.SCHEDULE_DELAYED: ("schedule {schedule} waits since {at}: {reason}", ODD),
    E.SCHEDULE_REFUSED: ("schedule {schedule} opened nothing for {at}: {reason}", BAD),
    E.SCHEDULE_MISSED: ("schedule {schedule} has missed firings from {at} on; it makes up for: {missed}", ODD),
    E.NODE_STARTED: ("node {name} runs", PLAIN),
    E.NODE_COMPLETED: ("node {name} has returned{, duration_ms}", PLAIN),
    E.NODE_FAILED: ("node {name} has failed: {error}", BAD),
    E.LLM_STARTED: ("model {model} was called", PLAIN),
    E.LLM_COMPLETED: ("model {model} has answered{, duration_ms}", PLAIN),
    E.LLM_FAILED: ("model {model} has failed: {error}", BAD),
    E.TOOL_CALL_STARTED: ("tool {tool_name} was called: {tool_input}", PLAIN),
    E.TOOL_CALL_COMPLETED: ("tool {tool_name} has given {result}", PLAIN),
    E.ATTEMPT_STARTED: ("attempt {attempt} is with {worker}", PLAIN),
    E.ATTEMPT_COMPLETED: ("attempt {attempt} on {worker} has completed{, run_ms}", GOOD),
    E.ATTEMPT_SUSPENDED: ("attempt {attempt} on {worker} has handed over to others{, run_ms}", PLAIN),
    E.ATTEMPT_FAILED: ("attempt {attempt} on {worker} has failed: {error}", BAD),
    E.ATTEMPT_CANCELLED: ("attempt {attempt} on {worker} was stopped{: reason}", ODD),
    E.ATTEMPT_LOST: ("attempt {attempt} was lost with {worker}", BAD),
    E.AGENT_JOINED: ("has joined", GOOD),
    E.AGENT_LEFT: ("has left", PLAIN),
    E.AGENT_SUSPECT: ("is silent", ODD),
    E.AGENT_LOST: ("is gone; it had {in_flight} tasks", BAD),
    E.AGENT_RECOVERED: ("is heard again", GOOD),
    E.AGENT_DRAINING: ("drains: it takes nothing new", ODD),
    E.LEASE_ACQUIRED: ("runs as process {process}", PLAIN),
    E.LEASE_TAKEN_OVER: ("is taken over by process {process}{, from before}", ODD),
    E.LEASE_LOST: ("no longer runs as process {process}", ODD),
    E.EVENTS_MISSED: ("events were trimmed away before they were read", BAD),
}


def event_line(event: AgentEvent, *, subject: bool = True) -> tuple[str, str | None]:
    """The line, and its colour; without the `subject` where all lines have the same."""
    words, colour = WORDS.get(event.type, ("", PLAIN))
    said = _filled(words, event.data) if words else f"{event.type} {_json(event.data)}"
    at = event.timestamp.isoformat(timespec="milliseconds")[11:23]
    about = event.task_id or event.data.get("agent") or event.agent_id or event.stream_id
    return "  ".join(filter(None, [at, printable(str(about)) if subject else "", printable(said)])), colour


def print_event(event: AgentEvent) -> None:
    """Prints the line at once."""
    line, colour = event_line(event)
    typer.secho(line, fg=colour)


def print_event_json(event: AgentEvent) -> None:
    """Prints the event as one line of JSON, at once."""
    print(escaped_json(json.dumps(event.to_dict())), flush=True)


def print_timeline(events: Sequence[AgentEvent]) -> None:
    """What became of one task, a line for each event."""
    if not events:
        return
    print("\nWhen and what (UTC):")
    for event in events:
        line, colour = event_line(event, subject=False)
        typer.secho(f"  {line}", fg=colour)


def _filled(words: str, data: Mapping[str, Any]) -> str:
    """`words` with the data in the place of their names. `{: name}`, `{, name}` and `{ for name}` say nothing where
    there is none."""
    parts = words.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        lead, _, key = name.rpartition(" ")
        value = data.get(key)
        if value is not None or not lead:
            filled.append(f"{lead} {_shown(key, value)}" if lead else _shown(key, value))
        filled.append(rest)
    return "".join(filled)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "?"
    if name in ("run_ms", "duration_ms") and isinstance(value, int | float):
        return f"after {value:.0f} ms"
    if name == "children" and isinstance(value, int):
        return f"{value} {'child' if value == 1 else 'children'}"
    if name == "progress":
        return progress_text(value)
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
