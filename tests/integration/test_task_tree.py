"""`agents tasks tree` and `cancel` on a hierarchy whose tasks have spawned others."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.cli.app import app
from core.cli.task_text import print_branches
from core.operations.task_tree import Branch
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task
from tests.builders import SECRET
from tests.integration.hierarchy import House, runs, spawn
from tests.redis_server import RedisServer
from tests.waiting import until_async


@pytest.fixture(autouse=True)
def _here(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that the command finds."""
    for name, value in {
        **redis_server.environment, "A2A_TOKEN_SECRET": SECRET.decode(), "COORDINATOR_ID": "k",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


async def tasks(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["tasks", *arguments], catch_exceptions=False)


async def tree(task_id: str) -> list[tuple[int, str, str, str]]:
    told = json.loads((await tasks("tree", task_id, "--json")).stdout)
    return [(each["depth"], each["task_id"], each["status"], each["worker"]) for each in told]


async def test_a_tree_says_where_each_task_stands_and_its_cancellation_what_became_of_each(
    agents: House, client: Any
) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker()
    submitter = await agents.client()
    below = {"task_id": "inner", "task_type": "spawn", "payload": {"children": [
        {"task_id": "held", "task_type": "wait"}, {"task_id": "sum", "task_type": "add", "payload": [1]},
    ]}}  # fmt: skip
    await submitter.submit.aio(spawn("root", [below, {"task_id": "late", "task_type": "nobody-can"}]))
    await runs(agents, "held")
    await until_async(lambda: "sum" in agents.log, "the other child has ended")

    async def both_told() -> bool:
        return {("held", "in_progress", "w"), ("sum", "completed", "w")} <= {each[1:] for each in await tree("root")}

    await until_async(both_told, "the coordinator knows")
    assert await tree("root") == [
        (0, "root", "waiting", ""), (1, "inner", "waiting", ""), (2, "held", "in_progress", "w"),
        (2, "sum", "completed", "w"), (1, "late", "pending", ""),
    ]  # fmt: skip
    assert [name for _, name, *_ in await tree("inner")] == ["inner", "held", "sum"]

    cancelled = await tasks("cancel", "root")
    assert cancelled.exit_code == 0, cancelled.output
    for name, became in (("root", "cancelled"), ("inner", "cancelled"), ("sum", "completed"), ("late", "cancelled")):
        assert re.search(rf"\b{name}  .*\b{became}\b", cancelled.stdout), cancelled.stdout
    assert re.search(r"\bheld  .*\b(cancelled|in_progress, asked to stop)\b", cancelled.stdout), cancelled.stdout

    async def all_ended() -> bool:
        return {each[1:3] for each in await tree("root")} == {
            ("root", "cancelled"), ("inner", "cancelled"), ("held", "cancelled"), ("sum", "completed"),
            ("late", "cancelled"),
        }  # fmt: skip

    await until_async(all_ended, "all have ended")


async def test_what_others_have_written_in_a_tree_is_told_of_once(client: Any) -> None:
    key = CoordinatorKeys("k").tasks
    for name, children in (("a", ("b", "a", "gone", "b")), ("b", ("a", "c"))):
        record = Task(task_id=name, task_type="t").evolve(children=children).to_json()
        await client.hset(key, name, record)
    await client.hset(key, "c", b"{")

    assert [each[:3] for each in await tree("a")] == [
        (0, "a", "pending"), (1, "b", "pending"), (2, "c", "unreadable"), (1, "gone", "forgotten"),
    ]  # fmt: skip
    unknown = await asyncio.to_thread(CliRunner().invoke, app, ["tasks", "tree", "gone"])
    assert unknown.exit_code != 0


def test_lines_join_each_task_with_the_one_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_branches([Branch(name, depth) for name, depth in (("a", 0), ("b", 1), ("c", 2), ("d", 1), ("e", 2))])
    assert [line.split("  forgotten")[0].rstrip() for line in capsys.readouterr().out.splitlines()[1:]] == [
        "a", "├─ b", "│  └─ c", "└─ d", "   └─ e",
    ]  # fmt: skip
