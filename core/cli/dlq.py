"""`agents dlq`: tasks that have failed for good, and rejected messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.render import Wide, Yes, confirm, duration, note, print_json, print_table, say
from core.cli.session import looking, operator_of, run, settings
from core.cli.task_text import print_attempts, print_fields

if TYPE_CHECKING:
    from core.client.agent_client import AgentClient
    from core.config.settings import Settings
    from core.operations.dead_letters import RejectedMessage
    from core.operations.reader import Reader
    from core.operations.task_records import Unreadable
    from core.signing import Signed
    from core.tasks import Task, TaskError

__all__ = ["app"]

app = typer.Typer(
    help="Look at tasks that failed for good, replay or purge them; look at messages that were rejected.",
    no_args_is_help=True,
)

EXIT_REFUSED = 1
#: Number of requests that are made at once.
AT_ONCE = 100

Request = Callable[["AgentClient", str], Awaitable[Any]]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Quarantined = Annotated[bool, typer.Option("--quarantined", help="Rejected messages, instead of tasks.")]


# ---- list ----


@app.command("list")
def list_dead_letters(
    quarantined: Quarantined = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """List the dead letters, the newest first: submitted tasks that have failed or were abandoned."""
    if quarantined:
        messages = run(_list_rejected(settings(), limit))
        if as_json:
            print_json([_rejected_json(message) for message in messages])
        else:
            of_rejected = ("ENTRY", "REASON", "FROM", "AT (UTC)?", "DETAIL~")
            print_table(of_rejected, [_rejected_row(message) for message in messages], wide=wide)
            if not messages:
                note("no message was rejected, or none is kept.")
        return
    tasks = run(_list(settings(), limit))
    if as_json:
        print_json([task.to_dict() for task in tasks])
        return
    columns = ("ID", "TYPE", "TRIES>?", "ENDED (UTC)?", "AGE>", "LAST ERROR~")
    print_table(columns, [_row(task) for task in tasks], wide=wide)
    if not tasks:
        note("there is no dead letter.")
    if len(tasks) == limit:
        note(f"(the newest {limit}; --limit shows more)")


async def _list(configured: Settings, limit: int) -> list[Task | Unreadable]:
    from core.operations.dead_letters import dead_letters

    async with looking(configured) as reader:
        return await dead_letters(reader, configured.coordinator_id, limit)


def _row(task: Task | Unreadable) -> tuple[str, ...]:
    from core.tasks import Task, utc_now

    if not isinstance(task, Task):
        return task.task_id, "", "", "", "", f"cannot be read: {task.why}"
    ended = task.completed_at or task.created_at
    age_s = max(0.0, (utc_now() - ended).total_seconds())
    error = _brief(task.error) if task.error else task.status.value
    return task.task_id, task.task_type, f"{task.retry_count}", _moment(ended), duration(age_s), error


def _brief(error: TaskError) -> str:
    return f"{error.type}: {error.message}".partition("\n")[0][:120]


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


async def _list_rejected(configured: Settings, limit: int) -> list[RejectedMessage]:
    from core.operations.dead_letters import rejected_messages

    async with looking(configured) as reader:
        distributors = await _distributors(reader, configured)
        return await rejected_messages(reader, configured.coordinator_id, distributors, limit)


async def _distributors(reader: Reader, configured: Settings) -> list[str]:
    from core.natural_order import natural_key
    from core.operations.hierarchy_top import chains_in, read_top
    from core.operations.stored_replies import StoredReplies

    found = StoredReplies()
    top = await read_top(reader, configured.coordinator_id, found, with_members=True)
    chains = chains_in(configured.coordinator_id, top, found)
    return sorted({chain[1].agent_id for chain in chains if len(chain) > 1}, key=natural_key)


def _rejected_row(message: RejectedMessage) -> tuple[str, ...]:
    return message.name, message.reason, message.sender, _moment(message.at), message.detail


def _rejected_json(message: RejectedMessage) -> dict[str, Any]:
    return {**asdict(message), "at": message.at.isoformat()}


# ---- show ----


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID")], quarantined: Quarantined = False, as_json: Json = False
) -> None:
    """Show a dead letter: its attempts, with error and output, and the message that submitted it.

    With --quarantined: show a rejected message, by its ENTRY in the list: the reason, and its beginning.
    """
    configured = settings()
    if quarantined:
        found = _rejected_json(run(_read_rejected(configured, name)))
        if as_json:
            print_json(found)
        else:
            print_table(("FIELD", "VALUE~"), [(field, value) for field, value in found.items() if field != "body"])
            print()
            say(f"It began with:\n{found['body']}")
        return
    task, signed = run(_read(configured, name))
    message = _message_json(configured, task, signed) if signed else None
    if as_json:
        print_json({"task": task.to_dict(), "message": message})
    else:
        _print(task, message)


async def _read_rejected(configured: Settings, name: str) -> RejectedMessage:
    from core.errors import UserError
    from core.operations.dead_letters import rejected_message

    async with looking(configured) as reader:
        found = await rejected_message(reader, configured.coordinator_id, name)
    if found is None:
        raise UserError(f"no rejected message {name!r} is kept. `agents dlq list --quarantined` lists them.")
    return found


async def _read(configured: Settings, task_id: str) -> tuple[Task, Signed | None]:
    from core.errors import UserError
    from core.operations.dead_letters import is_dead_letter, original_message
    from core.operations.task_records import read_task

    async with looking(configured) as reader:
        task, _ = await read_task(reader, configured.coordinator_id, task_id)
        if task is None or not await is_dead_letter(reader, configured.coordinator_id, task_id):
            raise UserError(f"{task_id!r} is not a dead letter. `agents dlq list` shows them.")
        return task, await original_message(reader, configured.coordinator_id, task)


def _message_json(configured: Settings, task: Task, signed: Signed) -> dict[str, Any]:
    """What is known about the message that submitted a task. `task`: the task as its client wrote it there."""
    import orjson

    from core.a2a_messaging import A2AMessage
    from core.dead_letters import origin_of, submitted_in
    from core.errors import PeerError
    from core.operations.dead_letters import signature_found
    from core.stored import moment, number_in

    try:
        metadata = A2AMessage.decode(signed.body).metadata
    except PeerError as error:
        return {"from": str(signed.sender), "unreadable": str(error), "task": None}
    arrived_ms = number_in((task.submission or "").partition("-")[0].encode())
    submitted = submitted_in(signed.pack()).get(origin_of(task))
    return {
        "from": str(signed.sender),
        "key_id": signed.key_id,
        "signature": signature_found(signed, configured.coordinator_id, configured.a2a, configured.redis),
        "signed_at": moment(metadata.timestamp).isoformat(),
        "arrived_at": moment(arrived_ms).isoformat(),
        "request_id": metadata.request_id,
        "entry": task.submission,
        "bytes": len(signed.body),
        "task": orjson.loads(bytes(submitted)) if submitted else None,
    }


def _print(task: Task, message: dict[str, Any] | None) -> None:
    print_fields(task, "payload", "submission")
    print_attempts(task)
    print()
    if message is None:
        say("No client message is kept for it.")
    else:
        say("The message that submitted it:")
        print_table(("FIELD", "VALUE~"), [(field, f"{value}") for field, value in message.items() if field != "task"])
    original = message["task"] if message and message["task"] else task.to_dict()
    print()
    say("Payload:")
    print_json(original.get("payload"))


# ---- replay, purge ----


@app.command()
def replay(ids: Ids = None, everything: All = False, as_json: Json = False) -> None:
    """Run dead letters again, each as a new task. Print the new ids.

    A new task has the original's type, payload and idempotency key. Its id is the original's with .replayN.
    """
    replayed, refused = _ask(ids, everything, lambda client, task_id: client.replay.aio(task_id))
    if as_json:
        print_json(replayed)
    else:
        for new_id in replayed.values():
            say(new_id)
    _leave(refused)


@app.command()
def purge(
    ids: Ids = None,
    everything: All = False,
    quarantined: Quarantined = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove tasks from the dead letters. Their records expire like those of any ended task.

    With --quarantined: delete rejected messages, by their ENTRY in the list, or with --all.
    """
    _check_named(ids, everything)
    if everything and not yes:
        confirm(f"Forget all {'rejected messages' if quarantined else 'dead letters'} there are?")
    if quarantined:
        _purge_rejected(ids, as_json)
        return
    purged, refused = _ask(ids, everything, lambda client, task_id: client.purge_dead_letter.aio(task_id))
    if as_json:
        print_json(list(purged))
    else:
        note(f"purged: {len(purged)}")
    _leave(refused)


def _purge_rejected(ids: Sequence[str] | None, as_json: bool) -> None:
    purged = run(_forget_rejected(settings(), ids or None))
    if as_json:
        print_json(purged)
    else:
        note(f"purged: {purged}")
    if purged < len(ids or ()):
        _leave(["the others are not kept. `agents dlq list --quarantined` lists those that are."])


async def _forget_rejected(configured: Settings, names: Sequence[str] | None) -> int:
    from core.operations.dead_letters import purge_rejected

    async with looking(configured) as reader:
        distributors = await _distributors(reader, configured)
        return await purge_rejected(reader, configured.coordinator_id, distributors, names)


def _check_named(ids: Sequence[str] | None, everything: bool) -> None:
    if bool(ids) == everything:
        raise typer.BadParameter("give the ids, or --all", param_hint="ID")


def _ask(ids: Sequence[str] | None, everything: bool, request: Request) -> tuple[dict[str, Any], list[str]]:
    """The answers, by id, and the reasons for refusals."""
    _check_named(ids, everything)
    return run(_requests(settings(), ids, request))


async def _requests(
    configured: Settings, ids: Sequence[str] | None, request: Request
) -> tuple[dict[str, Any], list[str]]:
    import asyncio

    from core.errors import TaskRefused
    from core.operations.dead_letters import dead_letter_ids

    answered: dict[str, Any] = {}
    refused: list[str] = []
    async with looking(configured) as reader, operator_of(configured) as client:
        wanted = ids or await dead_letter_ids(reader, configured.coordinator_id)
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            answers = await asyncio.gather(*(request(client, task_id) for task_id in some), return_exceptions=True)
            for task_id, answer in zip(some, answers, strict=True):
                if isinstance(answer, TaskRefused):
                    refused.append(await _why_rejected(reader, configured, task_id) or str(answer))
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    answered[task_id] = answer
    return answered, refused


async def _why_rejected(reader: Reader, configured: Settings, name: str) -> str:
    """Why a name is not a dead letter, if it is that of a rejected message; otherwise empty."""
    from core.operations.dead_letters import rejected_message

    found = await rejected_message(reader, configured.coordinator_id, name)
    if found is None:
        return ""
    return (
        f"{name} is a message that was rejected ({found.reason}: {found.detail})."
        " Rejected messages are never replayed: the sender has to send it again"
    )


def _leave(refused: Sequence[str]) -> None:
    for why in refused:
        note(f"agents: {why}")
    if refused:
        raise typer.Exit(EXIT_REFUSED)
