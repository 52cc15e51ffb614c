"""The store is searched by meaning over HTTP, while the code that embeds is loaded by workers alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import InternalServerError, UnprocessableEntityError

from core.chaos.processes import Processes
from tests.executor_bench import INTEGRATION
from tests.gateways import Gateways, gateways_of, keys_setting
from tests.waiting import until_async

GRAPH = str(INTEGRATION / "meaning_user_graphs.py")
INDEX = {"embed": f"{GRAPH}:embed", "dims": 26, "fields": ["text"]}


WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Gateways]:
    """With two workers that serve a project with an index."""
    folder = tmp_path_factory.mktemp("meaning")
    for name, index in (("one", INDEX), ("other", {**INDEX, "dims": 3})):
        (folder / name).mkdir()
        project = {"dependencies": ["."], "graphs": {name: f"{GRAPH}:graph"}, "store": {"index": index}}
        (folder / name / "langgraph.json").write_text(json.dumps(project))
    code = str(folder / "one" / "langgraph.json")
    with gateways_of(processes, folder, code, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as opened:
        start_worker(opened, WORKERS[1], "one")
        keys = keys_setting(ada="admin", eve="operator acme", bob="operator globex")
        opened.start("operator:ops", GATEWAY_KEYS=keys)
        yield opened


def start_worker(gateways: Gateways, name: str, project: str) -> None:
    path = str(gateways.folder / project)
    gateways.tiers.start("worker", name, "--distributor", "distributor-1", "--langgraph", path)


def leave(gateways: Gateways, *names: str) -> None:
    for name in names:
        gateways.tiers.terminate(name)
    assert [gateways.tiers.exit_code(name) for name in names] == [0] * len(names)


@pytest.fixture
async def sdk(gateways: Gateways) -> AsyncIterator[LangGraphClient]:
    """Once it is known that there is an index."""
    async with get_client(url=gateways.urls[0], api_key="ada-key") as client:
        await until_async(lambda: has_index(client), "the workers are known")
        yield client


async def found(sdk: LangGraphClient, *namespace: str, **options: Any) -> list[str]:
    """The keys, the nearest first, each with whether it is near."""
    items: Any = (await sdk.store.search_items(namespace, **options))["items"]
    return [f"{item['key']} {item['score'] is not None and item['score'] > 0.9}" for item in items]


async def has_index(sdk: LangGraphClient) -> bool:
    try:
        await sdk.store.search_items(["nothing"], query="anything")
    except (UnprocessableEntityError, InternalServerError):
        return False
    return True


async def is_stored(sdk: LangGraphClient) -> bool:
    try:
        await sdk.store.put_item(["stored"], key="a", value={"text": "tea"})
    except InternalServerError:
        return False
    return True


async def test_what_is_put_by_either_side_is_found_by_the_other(sdk: LangGraphClient) -> None:
    await sdk.store.put_item(["n"], key="http", value={"text": "green tea", "other": "zzz"})
    await sdk.store.put_item(["n"], key="other", value={"text": "zzz", "other": "black tea"}, index=["other"])
    await sdk.store.put_item(["n"], key="unseen", value={"text": "green tea"}, index=False)
    run: Any = {"namespace": ["n"], "put": {"node": "tea, green"}, "query": "green tea"}
    ran: Any = await sdk.runs.wait(None, "one", input=run)
    assert ran["found"] == ["http True", "node True"]
    assert await found(sdk, "n", query="ab ckl tea") == ["other True", "http False", "node False", "unseen False"]
    assert await found(sdk, "n", query="green tea", limit=1, offset=1) == ["node True"]
    assert await found(sdk, "n", query="green tea", filter={"other": "zzz"}) == ["http True"]
    assert await found(sdk, "n", query="") == ["http False", "node False", "other False", "unseen False"]
    named = [assistant["graph_id"] for assistant in await sdk.assistants.search()]
    assert named == ["one"]


async def test_a_tenant_finds_its_own_and_is_not_charged_for_what_embeds(
    sdk: LangGraphClient, gateways: Gateways
) -> None:
    acme, globex = (get_client(url=gateways.urls[0], api_key=f"{name}-key") for name in ("eve", "bob"))
    await sdk.http.put("/quotas/tenant:acme", json={"at_once": 0})
    async with acme, globex:
        await acme.store.put_item(["t"], key="secret", value={"text": "green tea"})
        await globex.store.put_item(["t"], key="own", value={"text": "black"})
        assert await found(acme, "t", query="green tea") == ["secret True"]
        assert await found(globex, "t", query="green tea") == ["own False"]
        assert await found(sdk, "t", query="green tea") == []
        of_globex: Any = await globex.http.get("/tasks")
    everybodys: Any = await sdk.http.get("/tasks")
    assert of_globex["tasks"] == []
    assert {"embeds:acme", "embeds:globex"} <= {task["tenant"] for task in everybodys["tasks"]}
    await sdk.http.delete("/quotas/tenant:acme")


async def test_what_cannot_be_embedded_is_refused_and_not_stored(sdk: LangGraphClient) -> None:
    await sdk.store.put_item(["r"], key="a", value={"text": "before"})
    with pytest.raises(InternalServerError, match="has failed in a worker, and nothing was stored: ValueError: this"):
        await sdk.store.put_item(["r"], key="a", value={"text": "no meaning"})
    with pytest.raises(UnprocessableEntityError, match="a text of 300003 bytes is to be embedded"):
        await sdk.store.put_item(["r"], key="a", value={"text": "x" * 300_000})
    with pytest.raises(UnprocessableEntityError, match="index: names up to 400 parts of an item of 100008 bytes"):
        await sdk.store.put_item(["r"], key="a", value={"a": "x" * 100_000}, index=["{" + ",".join(["a"] * 400) + "}"])
    with pytest.raises(InternalServerError, match="ValueError: this has none"):
        await sdk.store.search_items(["r"], query="no meaning")
    item: Any = await sdk.store.get_item(["r"], key="a")
    assert item["value"] == {"text": "before"}
    dead: Any = await sdk.http.get("/tasks/status")
    assert dead["dead_letters"] == 0
    many = {f"{number}": f"text {number} " + "x" * 60_000 for number in range(8)}
    await sdk.store.put_item(["r"], key="many", value={"text": "-", **many}, index=["*"])
    assert (await found(sdk, "r", query="text x" + "x" * 60_000, limit=1)) == ["many True"]


async def test_a_worker_that_dies_while_it_embeds_is_replaced(sdk: LangGraphClient, gateways: Gateways) -> None:
    put = asyncio.create_task(sdk.store.put_item(["k"], key="a", value={"text": "hold this"}))
    held = await until_async(lambda: [*gateways.folder.glob("held by *")], "a worker embeds")
    above = {process.pid for process in psutil.Process(int(held[0].name.split()[-1])).parents()}
    [name] = [name for name in WORKERS if gateways.tiers.pid(name) in above]
    gateways.tiers.kill(name)
    assert await sdk.store.get_item(["k"], key="a") is None
    (gateways.folder / "go").touch()
    await put
    assert await found(sdk, "k", query="this hold") == ["a True"]
    start_worker(gateways, name, "one")


async def test_different_indexes_of_one_store_are_refused_and_a_lost_one_is_waited_for(
    sdk: LangGraphClient, gateways: Gateways
) -> None:
    async def refused(said: str, key: str) -> bool:
        try:
            await sdk.store.put_item(["s"], key=key, value={"text": "tea"})
        except (UnprocessableEntityError, InternalServerError) as error:
            return said in str(error)
        return False

    start_worker(gateways, "worker-3", "other")
    await until_async(lambda: refused("workers have different indexes of the one store", "a"), "both are known")
    await sdk.store.put_item(["s"], key="b", value={"text": "tea"}, index=False)
    leave(gateways, "worker-3")
    await until_async(lambda: has_index(sdk), "one index is left")
    leave(gateways, *WORKERS)
    await until_async(lambda: refused("ends as soon as a worker serves one without it", "c"), "there is none, for now")
    assert "c False" not in await found(sdk, "s")
    (gateways.folder / "one" / "langgraph.json").write_text(
        json.dumps({"dependencies": ["."], "graphs": {"one": f"{GRAPH}:graph"}})
    )
    start_worker(gateways, WORKERS[0], "one")
    await until_async(lambda: is_stored(sdk), "the index is given up")
