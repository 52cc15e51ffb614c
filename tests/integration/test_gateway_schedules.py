"""Schedules over HTTP, and LangGraph's crons by its own SDK, at two gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.schedules import Schedule
from tests.executor_bench import INTEGRATION
from tests.gateways import Gateways, gateways_of, keys_setting
from tests.waiting import until, until_async

DAILY: dict[str, Any] = {"task": {"task_type": "echo"}, "cron": "0 9 * * *", "timezone": "Europe/Berlin"}
KEYS = {"GATEWAY_KEYS": keys_setting(ada="operator", eve="viewer", acme="operator acme")}


class Doors:
    def __init__(self, gateways: Gateways) -> None:
        self.gateways = gateways
        self.open, self.strict = gateways.start_all({}, KEYS)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("gateway")
    code = str(INTEGRATION / "gateway_user_graphs.py")
    with gateways_of(processes, folder, code, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as gateways:
        yield Doors(gateways)


@pytest.fixture
async def sdk(doors: Doors) -> AsyncIterator[LangGraphClient]:
    graphs = f"{doors.open}/assistants/search"
    until(lambda: len(httpx.post(graphs, json={}).json()) >= 4, "the graphs are there", 60)
    async with get_client(url=doors.open, api_key=None) as client:
        yield client


def test_a_schedule_is_set_looked_at_paused_and_removed_at_any_gateway(doors: Doors) -> None:
    one, other = doors.open, doors.strict
    ada = {"X-Api-Key": "ada-key"}
    made = httpx.put(f"{one}/schedules/daily", json=DAILY)
    assert made.status_code == 200, made.text
    assert (made.json()["owner"], len(made.json()["next"])) == ("client:gateway", 5)
    assert httpx.get(f"{other}/schedules/daily", headers=ada).json() == made.json()
    assert httpx.post(f"{other}/schedules/daily/pause", headers=ada).json()["paused"] is True
    assert httpx.get(f"{one}/schedules/daily").json()["next"] == []
    assert httpx.post(f"{one}/schedules/daily/resume").json()["paused"] is False
    assert [each["name"] for each in httpx.get(f"{one}/schedules").json()] == ["daily"]
    assert httpx.delete(f"{one}/schedules/daily").status_code == 204
    assert httpx.delete(f"{one}/schedules/daily").status_code == 404


def test_a_removal_that_is_asked_for_again_with_its_key_is_answered_as_the_first(doors: Doors) -> None:
    httpx.put(f"{doors.open}/schedules/once", json=DAILY)
    with_key = {"Idempotency-Key": "removal-1"}
    for _ in range(2):
        assert httpx.delete(f"{doors.open}/schedules/once", headers=with_key).status_code == 204
    assert httpx.delete(f"{doors.open}/schedules/once").status_code == 404
    assert httpx.delete(f"{doors.open}/schedules/none", headers={"Idempotency-Key": "other"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"task": {"task_type": "echo"}}, "give either cron="),
        (DAILY | {"cron": "x * * * *"}, "the minute is not one"),
        (DAILY | {"timezone": "Mars"}, "use an IANA name"),
        (DAILY | {"task": {"task_type": "echo", "task_id": "mine"}}, "each firing has an id of its own"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_cure(doors: Doors, body: dict[str, Any], said: str) -> None:
    refused = httpx.put(f"{doors.open}/schedules/daily", json=body)
    assert refused.status_code == 422
    assert said in refused.json()["detail"]


def test_whoever_only_reads_changes_no_schedule(doors: Doors) -> None:
    eve = {"X-Api-Key": "eve-key"}
    assert httpx.get(f"{doors.strict}/schedules", headers=eve).status_code == 200
    assert httpx.put(f"{doors.strict}/schedules/daily", json=DAILY, headers=eve).status_code == 403


def test_a_tenant_sees_and_changes_its_own_schedules_only(doors: Doors) -> None:
    def asked(who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{doors.strict}/schedules{path}", headers={"X-Api-Key": f"{who}-key"}, **more)

    assert asked("acme", "PUT", "/theirs", json=DAILY).json()["task"]["tenant"] == "acme"
    assert asked("ada", "PUT", "/ours", json=DAILY).status_code == 200
    assert [each["name"] for each in asked("acme", "GET", "").json()] == ["theirs"]
    for method, path in (("GET", "/ours"), ("DELETE", "/ours"), ("POST", "/ours/pause"), ("POST", "/ours/resume")):
        assert asked("acme", method, path).status_code == 404
    assert asked("acme", "PUT", "/ours", json=DAILY).status_code == 409
    assert asked("ada", "PUT", "/theirs", json=DAILY).status_code == 409
    assert asked("acme", "POST", "/theirs/pause").json()["paused"] is True
    for name in "ours", "theirs":
        assert asked("ada", "DELETE", f"/{name}").status_code == 204


async def test_crons_are_created_found_changed_and_deleted(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    mine: Any = {"of": "ada"}
    end = datetime(2100, 1, 1, tzinfo=UTC)
    made: Any = await sdk.crons.create(
        "steps", schedule="30 9 * * 1-5", input={"done": []}, metadata=mine, timezone="Europe/Berlin", end_time=end
    )
    in_thread: Any = await sdk.crons.create_for_thread(thread, "steps", schedule="0 * * * *", enabled=False)

    assert (made["schedule"], made["timezone"], made["enabled"]) == ("30 9 * * 1-5", "Europe/Berlin", True)
    assert datetime.fromisoformat(made["end_time"]) == end
    assert datetime.fromisoformat(made["next_run_date"]).minute == 30
    assert made["payload"]["input"] == {"done": []}
    assert (in_thread["thread_id"], in_thread["next_run_date"]) == (thread, None)
    assert await sdk.crons.count(assistant_id="steps") == 2
    assert [cron["cron_id"] for cron in await sdk.crons.search(metadata=mine)] == [made["cron_id"]]
    selected: Any = await sdk.crons.search(thread_id=thread, select=["enabled"])
    assert selected == [{"enabled": False}]

    changed: Any = await sdk.crons.update(made["cron_id"], schedule="0 10 * * *", enabled=False, end_time=None)
    assert (changed["schedule"], changed["enabled"], changed["end_time"]) == ("0 10 * * *", False, None)
    assert (changed["metadata"], changed["timezone"]) == (mine, "Europe/Berlin")
    for cron in (made, in_thread):
        await sdk.crons.delete(cron["cron_id"])
    assert await sdk.crons.count() == 0
    with pytest.raises(NotFoundError, match="there is no cron"):
        await sdk.crons.delete(made["cron_id"])
    with pytest.raises(NotFoundError, match="there is no thread"):
        await sdk.crons.create_for_thread("nothing", "steps", schedule="0 * * * *")
    with pytest.raises(UnprocessableEntityError, match="give five fields"):
        await sdk.crons.create("steps", schedule="often")


@asynccontextmanager
async def often(doors: Doors, cron_id: str) -> AsyncIterator[None]:
    """Has a cron come true each second in the block. None does more often than each minute, which nobody waits for
    here."""
    tiers = doors.gateways.tiers
    async with AgentClient(tiers.redis, tiers.secrets, "coordinator-1", "gateway") as gateway:
        known = (await gateway.schedules.get.aio(cron_id)).to_dict()
        fields = {name: known[name] for name in ("name", "task", "metadata", "keeps_threads")}
        await gateway.schedules.set.aio(Schedule(**fields, every_s=1))
        try:
            yield
        finally:
            await gateway.schedules.pause.aio(cron_id)


async def test_the_runs_of_a_cron_are_runs_of_its_thread_and_go_with_it(sdk: LangGraphClient, doors: Doors) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    cron: Any = await sdk.crons.create_for_thread(thread, "steps", schedule="0 0 1 1 *", input={"done": []})
    async with often(doors, cron["cron_id"]):

        async def has_begun() -> bool:
            return any(run["status"] == "success" for run in await sdk.runs.list(thread))

        await until_async(has_begun, "a run has begun and ended")
    first = (await sdk.runs.list(thread))[-1]
    assert first["run_id"].startswith(f"{cron['cron_id']}@")
    assert (await sdk.runs.get(thread, first["run_id"]))["assistant_id"] == first["assistant_id"]
    assert (await sdk.runs.join(thread, first["run_id"]))["done"][:2] == ["first", "second"]

    await sdk.runs.delete(thread, first["run_id"])
    assert first["run_id"] not in [run["run_id"] for run in await sdk.runs.list(thread)]
    for run in await sdk.runs.list(thread):
        await sdk.runs.join(thread, run["run_id"])
    await sdk.threads.delete(thread)
    assert await sdk.crons.count(thread_id=thread) == 0


async def test_the_thread_of_each_run_of_a_cron_is_kept_if_so_asked(sdk: LangGraphClient, doors: Doors) -> None:
    cron: Any = await sdk.crons.create(
        "steps", schedule="0 0 1 1 *", input={"done": []}, metadata={"of": "ada"}, on_run_completed="keep"
    )
    assert cron["on_run_completed"] == "keep"
    mine: Any = {"cron_id": cron["cron_id"]}
    async with often(doors, cron["cron_id"]):

        async def are_kept() -> bool:
            return await sdk.threads.count(metadata=mine, status="idle") > 1

        await until_async(are_kept, "two threads are kept")
    kept, *_ = await sdk.threads.search(metadata=mine, status="idle")
    assert kept["values"] == {"done": ["first", "second"]}
    [run] = await sdk.runs.list(kept["thread_id"])
    assert (run["status"], (run["metadata"] or {})["of"]) == ("success", "ada")
    again: Any = await sdk.runs.wait(kept["thread_id"], "steps", input={"done": []})
    assert again["done"] == ["first", "second"] * 2

    await sdk.threads.delete(kept["thread_id"])
    assert kept["thread_id"] not in [one["thread_id"] for one in await sdk.threads.search(metadata=mine)]
    changed: Any = await sdk.crons.update(cron["cron_id"], schedule="0 0 2 1 *", on_run_completed="delete")
    assert changed["on_run_completed"] == "delete"
    await sdk.crons.delete(cron["cron_id"])
