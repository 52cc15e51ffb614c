"""Questions of suspended tasks over a real server: asked, listed and answered, by a program and on the command line.
What a worker would report is said in the name of a distributor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.agent import CoordinatorAgent
from core.cli.app import app
from core.client.agent_client import AgentClient
from core.errors import AgentSystemError, AnswerRefused, BadTask, UnknownTask
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Action, Address, Role
from core.tasks import Task
from tests.builders import SECRET, a_task
from tests.integration.hierarchy import House, status
from tests.integration.speaker import Redis, Speaker
from tests.redis_server import RedisServer
from tests.waiting import until_async

KEYS = CoordinatorKeys("k")
ABOVE = Address(Role.COORDINATOR, "k")
CHAIN = (ABOVE, Address(Role.DISTRIBUTOR, "d"))
Command = Callable[..., Awaitable[tuple[int, str]]]
DRAFT = {"id": "q", "node": "review", "asks": {"draft": "hello"}}


class Asking:
    """A coordinator with suspended tasks."""

    def __init__(self, home: House, agent: CoordinatorAgent, client: Redis) -> None:
        self.home, self.agent, self.client = home, agent, client
        self._distributor = Speaker(client, CHAIN, ABOVE, KEYS.inbox)

    async def suspend(self, task_id: str, *waits: dict[str, Any], **fields: Any) -> None:
        await self.agent.assign_task_to_distributor.aio(a_task(task_id, **fields), "d")
        report = {"task_id": str(task_id), "status": "suspended", "attempt": 1, "retry_count": 1, "waits": list(waits)}
        await self._distributor.say(Action.TASK_RESULT, tasks=[report])
        await self.stands(task_id, "waiting")

    async def stands(self, task_id: str, wanted: str) -> None:
        async def does() -> bool:
            return await status(self.client, task_id) == wanted

        await until_async(does, f"{task_id} is {wanted}")

    async def restart(self) -> None:
        await self.agent.close.aio()
        self.agent = await self.home.coordinator()


@pytest.fixture
async def asking(agents: House, client: Redis) -> Asking:
    return Asking(agents, await agents.coordinator(), client)


async def asked(client: AgentClient, **wanted: Any) -> list[tuple[str, str, Any]]:
    return [(each.task_id, each.interrupt_id, each.asks) for each in await client.questions.aio(**wanted)]


async def test_questions_outlast_their_coordinator_and_their_index_and_are_answered_once(asking: Asking) -> None:
    me, other = await asking.home.client(), await asking.home.client("somebody-else")
    await asking.suspend("t", DRAFT, {"id": "r"})
    await asking.suspend("s", {"id": "q"})

    await asking.agent.close.aio()
    await asking.client.delete(KEYS.questions)
    asking.agent = await asking.home.coordinator()

    assert await asking.client.zrange(KEYS.questions, 0, -1) == [b"t", b"s"]
    assert await asked(me) == [("t", "q", {"draft": "hello"}), ("t", "r", None), ("s", "q", None)]
    assert await asked(me, task="t", limit=1) == await asked(me, root="t", limit=1) == [("t", "q", {"draft": "hello"})]
    assert await asked(other) == []
    [question] = await me.questions.aio(task="t", limit=1)
    assert await me.answer.aio("t", "q", {"ok": True}, question.digest)
    assert await me.answer.aio("t", "q", {"ok": True})
    with pytest.raises(AnswerRefused, match=r"question 'q' was answered by client:\S+ at"):
        await me.answer.aio("t", "q", "no")
    with pytest.raises(AnswerRefused, match="the digest is of an older one"):
        await me.answer.aio("t", "r", 1, question.digest)
    with pytest.raises(AnswerRefused, match="there is no question 'x'; it asks r"):
        await me.answer.aio("t", "x", 1)
    for client, task_id in ((other, "t"), (me, "unknown")):
        with pytest.raises(UnknownTask):
            await client.answer.aio(task_id, "r", 1)
    await me.answer.aio("t", "r")
    await asking.stands("t", "pending")
    assert await asked(me) == [("s", "q", None)]


async def test_the_id_of_a_task_that_a_program_has_made_names_its_questions(asking: Asking) -> None:
    me = await asking.home.client()
    task_id = Task(task_type="sum").task_id
    await asking.suspend(task_id, DRAFT)

    assert len(await asked(me, task=task_id)) == len(await asked(me, root=task_id)) == 1
    assert await me.answer.aio(task_id, "q", 1)


async def test_what_can_be_no_answer_is_refused_where_it_is_given(asking: Asking) -> None:
    me = await asking.home.client()

    with pytest.raises(BadTask, match="answer to question 'q' of task 't' is not JSON"):
        await me.answer.aio("t", "q", object())
    with pytest.raises(BadTask, match="limit is 0"):
        await me.questions.aio(limit=0)


async def test_a_question_expires_while_nobody_looks(asking: Asking) -> None:
    await asking.suspend("t", {**DRAFT, "expires_s": 0.2, "default": "no"})

    await asking.restart()
    await asking.stands("t", "pending")

    assert asking.agent.state.local_tasks["t"].waits[0].answer == "no"


@pytest.fixture
def command(redis_server: RedisServer) -> Command:
    """Runs `agents` with these arguments in a thread of this process; returns its exit code, and what it prints."""
    settings = {**redis_server.environment, "A2A_TOKEN_SECRET": SECRET.decode(), "COORDINATOR_ID": "k"}

    async def run(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=settings, catch_exceptions=False)
        return result.exit_code, result.output

    return run


async def test_an_operator_finds_what_is_asked_and_answers_it_on_the_command_line(
    asking: Asking, command: Command
) -> None:
    await asking.suspend("t", DRAFT, {"id": "breakpoint:write"})
    await asking.suspend("s", {"id": "only", "asks": "Go on?", "expires_s": 3600, "default": False})

    assert "2 of the open ones ask something, see `agents questions list`" in (await command("status"))[1]
    assert "answers to 2 question(s): `agents questions show t`" in (await command("tasks", "show", "t"))[1]
    lines = (await command("questions", "list"))[1].splitlines()
    assert [line.split()[0] for line in lines] == ["TASK", "t", "t", "s"]
    assert '{"draft": "hello"}' in lines[1]
    below = json.loads((await command("questions", "list", "--root", "t", "--json"))[1])
    assert [(each["interrupt_id"], each["asks"]) for each in below] == [
        ("q", {"draft": "hello"}), ("breakpoint:write", None),
    ]  # fmt: skip
    assert "agents questions answer t JSON --question q" in (await command("questions", "show", "t"))[1]

    assert "asks more than one thing" in (await command("questions", "answer", "t", "1"))[1]
    code, said = await command("questions", "answer", "t", '{"ok": true}', "--question", "q")
    assert (code, said.startswith("answered: question q of t.")) == (0, True)
    await command("questions", "answer", "t")
    await command("questions", "answer", "s", "--text", "yes", "--stream", "updates,debug")
    answers = {name: [wait.answer for wait in asking.agent.state.local_tasks[name].waits] for name in "ts"}
    assert answers == {"t": [{"ok": True}, None], "s": ["yes"]}
    assert (told := asking.agent.state.local_tasks["s"].run) is not None
    assert told.stream == ("updates", "debug")
    assert await command("questions", "list") == (0, "nothing is asked.\n")


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        (("show", "unknown"), UnknownTask, "no task 'unknown'"),
        (("answer", "unknown", "1"), UnknownTask, "no task 'unknown'"),
        (("answer", "t", "1", "--question", "x"), AnswerRefused, "there is no question 'x'; it asks q"),
        (("answer", "t", "{"), BadTask, "the answer is no JSON"),
        (("answer", "t", "1", "--stream", "update"), BadTask, "run option 'stream'"),
    ],
)
async def test_an_answer_that_fits_nothing_is_an_error_on_the_command_line(
    asking: Asking, command: Command, arguments: tuple[str, ...], error: type[AgentSystemError], why: str
) -> None:
    await asking.suspend("t", DRAFT)

    with pytest.raises(error, match=why):
        await command("questions", *arguments)
