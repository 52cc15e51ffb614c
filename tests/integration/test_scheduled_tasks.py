"""Schedules over real processes: coordinators are killed around firings, and none is lost or doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from core.chaos.processes import Processes
from core.cli.app import app
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.errors import BadSchedule, UnknownSchedule
from core.schedules import Schedule
from core.tasks import Task
from tests.redis_server import RedisServer, bundled_server
from tests.tiers import SECRET, ForkedTiers
from tests.waiting import until, until_async


@dataclass
class Stage:
    """A coordinator, and its clients. Its tasks wait, as there is no distributor."""

    tiers: ForkedTiers
    server: RedisServer

    def client(self, name: str) -> AgentClient:
        return AgentClient(self.tiers.redis, self.tiers.secrets, "coordinator-1", name)

    def start(self, failpoints: str = "") -> None:
        self.tiers._environment["AGENT_FAILPOINTS"] = failpoints
        self.tiers.start("coordinator", "coordinator-1")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Stage]:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(bundled_server()))
        redis = RedisConfig(url=server.url, password=server.password, mode="external")
        tiers = stack.enter_context(ForkedTiers(processes, redis, tmp_path_factory.mktemp("schedules")))
        made = Stage(tiers, server)
        made.start()
        yield made


async def test_a_client_sets_lists_changes_and_removes_its_schedules(stage: Stage) -> None:
    async with stage.client("ada") as ada, stage.client("eve") as eve, stage.client("operator:ops") as ops:
        task = Task(task_type="sum", payload=[1], priority="high")
        await ada.schedules.set.aio(Schedule(name="daily", cron="0 9 * * *", timezone="Europe/Berlin", task=task))
        await eve.schedules.set.aio(Schedule(name="hourly", every_s=3600, task={"task_type": "sum"}))

        assert [schedule.name for schedule in await ada.schedules.list.aio()] == ["daily"]
        assert [schedule.name for schedule in await ops.schedules.list.aio()] == ["daily", "hourly"]
        recorded = await ada.schedules.get.aio("daily")
        assert (recorded.owner, recorded.task.priority, recorded.task.payload) == ("client:ada", "high", [1])
        with pytest.raises(UnknownSchedule, match="no schedule 'daily' of this client"):
            await eve.schedules.pause.aio("daily")
        with pytest.raises(BadSchedule, match="in use by another client"):
            await eve.schedules.set.aio(Schedule(name="daily", every_s=60, task=task))

        await ops.schedules.pause.aio("daily")
        assert (await ada.schedules.get.aio("daily")).paused
        await ada.schedules.resume.aio("daily")
        await ada.schedules.remove.aio("daily")
        await eve.schedules.remove.aio("hourly")
        assert await ops.schedules.list.aio() == []


def test_the_command_shows_when_it_fires_next(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**stage.server.environment, "A2A_TOKEN_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)

    def agents(*arguments: str, code: int = 0) -> str:
        ran = CliRunner().invoke(app, ["cron", *arguments])
        assert ran.exit_code == code, ran.output
        return ran.output

    agents("add", "report", "write", '{"of": 1}', "--cron", "30 9 * * 1-5", "--timezone", "Europe/Berlin")
    agents("add", "poll", "look", "--every", "3600", "--missed", "skip", "--paused", "--task", '{"timeout_s": 5}')
    listed = agents("list", "--wide").splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "poll", "report"]
    assert "paused" in listed[1]
    assert " 09:30:00 CE" in listed[2]
    report = json.loads(agents("show", "report", "--json"))
    assert (report["task"]["payload"], report["owner"], len(report["next"])) == ({"of": 1}, "operator:cli", 5)
    assert "09:30:00" in agents("show", "report")
    agents("resume", "poll")
    agents("pause", "report")
    assert [each["paused"] for each in json.loads(agents("list", "--json"))] == [False, True]
    for name in ("report", "poll"):
        agents("remove", name)
    assert json.loads(agents("list", "--json")) == []


async def test_each_firing_opens_one_task_although_coordinators_are_killed_around_it(stage: Stage) -> None:
    async with stage.client("ada") as ada:
        await ada.schedules.set.aio(Schedule(name="tick", every_s=1, missed="all", task={"task_type": "sum"}))

        async def opened() -> list[str]:
            return [task_id for task_id in await records(ada) if task_id.startswith("tick@")]

        async def more() -> bool:
            return len(await opened()) > before

        for failpoint in ("before-exec:2:kill", "exec-sent:2:kill", "exec:2:kill"):
            before = len(await opened())
            await until_async(more, "it fires")
            stage.tiers.kill("coordinator-1")
            stage.start(failpoint)
            until(lambda: not stage.tiers.runs("coordinator-1"), "it dies at a firing")
            stage.start()
        before = len(await opened())
        await until_async(more, "it fires")
        await ada.schedules.pause.aio("tick")
        schedule = await ada.schedules.get.aio("tick")

        since, until_then = schedule.since, schedule.fired_until
        assert since
        assert until_then
        expected, at = [], since
        while (at := at + timedelta(seconds=1)) <= until_then:
            expected.append(f"tick@{at:%Y-%m-%dT%H:%M:%S}Z")
        assert sorted(await opened()) == expected
        assert schedule.opened == len(expected)
        assert until_then <= datetime.now(UTC)


async def records(client: AgentClient) -> list[str]:
    """The ids of all tasks that are recorded."""
    assert client._requests
    [names] = await client._requests.run(("HKEYS", client._keys.tasks))
    return [name.decode() for name in names]
