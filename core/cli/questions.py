"""`agents questions`: what suspended tasks ask, and answers to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.json_argument import json_argument
from core.cli.render import Wide, duration, note, print_json, print_table, say
from core.cli.session import looking, operator_of, run, settings

if TYPE_CHECKING:
    from core.config.settings import Settings
    from core.operations.task_records import Unreadable
    from core.waits import Question

__all__ = ["app"]

app = typer.Typer(help="List and show what suspended tasks ask, and answer it.", no_args_is_help=True)

EXIT_REFUSED = 1

TaskId = Annotated[str, typer.Argument(metavar="TASK")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Id = Annotated[str | None, typer.Option("--question", metavar="ID", help="Which one, if the task asks several.")]


@app.command("list")
def list_questions(
    root: Annotated[str | None, typer.Option(metavar="TASK", help="Only of this task and all below it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """List the open questions; those first that have waited longest."""
    questions = run(_list(settings(), limit, root))
    if as_json:
        print_json([_json(question) for question in questions])
        return
    columns = ("TASK", "QUESTION", "TYPE?", "NODE?", "AGE>", "ENDS IN>?", "ASKS~")
    print_table(columns, [_row(question) for question in questions], wide=wide)
    if not questions:
        note("nothing is asked.")
    elif len(questions) == limit:
        note(f"(the first {limit}; --limit shows more)")


async def _list(configured: Settings, limit: int, root: str | None) -> list[Question | Unreadable]:
    from core.operations.questions import open_questions

    async with looking(configured) as reader:
        return await open_questions(reader, configured.coordinator_id, limit, root)


def _json(question: Question | Unreadable) -> dict[str, Any]:
    from msgspec import to_builtins

    from core.waits import Question

    if not isinstance(question, Question):
        return question.to_dict()
    told: dict[str, Any] = to_builtins(question)
    return {"asks": None, "node": "", **told}


def _row(question: Question | Unreadable) -> tuple[str, ...]:
    from core.tasks import utc_now
    from core.waits import Question

    if not isinstance(question, Question):
        return question.task_id, "", "", "", "", "", f"cannot be read: {question.why}"
    now = utc_now()
    age = duration(max(0.0, (now - question.asked_at).total_seconds())) if question.asked_at else ""
    left = duration(max(0.0, (question.expires_at - now).total_seconds())) if question.expires_at else ""
    return (
        question.task_id, question.interrupt_id, question.task_type, question.node, age, left, _text(question.asks),
    )  # fmt: skip


def _text(asks: Any) -> str:
    return asks if isinstance(asks, str) else json.dumps(asks, ensure_ascii=False)


@app.command()
def show(task_id: TaskId, as_json: Json = False) -> None:
    """Show what one task asks, in full, and how it is answered."""
    questions = run(_of_task(settings(), task_id))
    if as_json:
        print_json([_json(question) for question in questions])
        return
    if not questions:
        note(f"it asks nothing. `agents tasks show {task_id}` tells what it does.")
    for question in questions:
        told = _json(question)
        asks = told.pop("asks")
        print_table(("FIELD", "VALUE~"), [(name, _text(value)) for name, value in told.items() if value != ""])
        print()
        print_json(asks)
        which = f" --question {question.interrupt_id}" if len(questions) > 1 else ""
        say(f"\nNext: agents questions answer {task_id} JSON{which}\n")


async def _of_task(configured: Settings, task_id: str) -> list[Question]:
    from core.errors import UnknownTask
    from core.operations.questions import questions_of
    from core.operations.task_records import read_task

    async with looking(configured) as reader:
        task, _ = await read_task(reader, configured.coordinator_id, task_id)
    if task is None:
        raise UnknownTask(f"no task {task_id!r}: never submitted here, or ended longer ago than its retention")
    return questions_of(task)


@app.command()
def answer(
    task_id: TaskId,
    value: Annotated[str, typer.Argument(metavar="[JSON]", help="The answer; - reads stdin, @FILE a file.")] = "null",
    text: Annotated[str | None, typer.Option("--text", help="The answer, as a text instead of JSON.")] = None,
    question: Id = None,
    digest: Annotated[str | None, typer.Option(help="Only if the question still has this digest.")] = None,
    stream: Annotated[
        str, typer.Option(metavar="MODES", help="What the run tells from now on as well, as updates,messages.")
    ] = "",
) -> None:
    """Answer a question. The task goes on when all its questions are answered.

    Without an answer it is null, which is enough for a breakpoint.
    """
    given = json_argument("the answer", value) if text is None else text
    modes = [mode for mode in stream.split(",") if mode]
    answered = run(_answer(settings(), task_id, question, given, digest, modes))
    note(f"answered: question {answered} of {task_id}. `agents tasks show {task_id}` tells what it does now.")


async def _answer(
    configured: Settings, task_id: str, named: str | None, value: Any, digest: str | None, modes: Sequence[Any]
) -> str:
    async with operator_of(configured) as client:
        if named is None:
            asked = await client.questions.aio(task=task_id, limit=2)
            if len(asked) > 1:
                raise typer.BadParameter(
                    f"{task_id} asks more than one thing: name one, `agents questions show {task_id}` lists them",
                    param_hint="--question",
                )
            # What was asked and answered before is refused in the coordinator's words.
            named = asked[0].interrupt_id if asked else ""
            digest = digest or (asked[0].digest if asked else None)
        await client.answer.aio(task_id, named, value, digest, stream=modes)
        return named
