"""The store is searched by meaning over HTTP, while the code that embeds is loaded by workers alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

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


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Gateways]:
    """Without an index, until somebody starts a worker that has one."""
    folder = tmp_path_factory.mktemp("meaning")
    for name, index in (("none", {}), ("one", {"index": INDEX}), ("other", {"index": {**INDEX, "dims": 3}})):
        (folder / name).mkdir()
        project = {"dependencies": ["."], "graphs": {name: f"{GRAPH}:graph"}, "store": index}
        (folder / name / "langgraph.json").write_text(json.dumps(project))
    code = str(folder / "none" / "langgraph.json")
    with gateways_of(processes, folder, code, USER_CODE_FOLDER=str(folder), WORKER_HOSTS="1") as opened:
        opened.start_all({"GATEWAY_KEYS": keys_setting(ada="operator", eve="operator acme", bob="operator globex")})
        yield opened


def start_worker(gateways: Gateways, name: str, project: str) -> None:
    path = str(gateways.folder / project)
    gateways.tiers.start("worker", name, "--distributor", "distributor-1", "--langgraph", path)


@pytest.fixture
async def sdk(gateways: Gateways) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=gateways.urls[0], api_key="ada-key") as client:
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


async def test_without_an_index_it_is_said_how_to_have_one(sdk: LangGraphClient) -> None:
    await sdk.store.put_item(["plain"], key="a", value={"text": "tea"})
    await sdk.store.put_item(["plain"], key="b", value={"text": "tea"}, index=False)
    with pytest.raises(UnprocessableEntityError, match=r"put `store\.index` into a langgraph\.json"):
        await sdk.store.search_items(["plain"], query="tea")
    with pytest.raises(UnprocessableEntityError, match=r"put `store\.index` into a langgraph\.json"):
        await sdk.store.put_item(["plain"], key="c", value={"text": "tea"}, index=["text"])
    assert await found(sdk, "plain") == ["a False", "b False"]


async def test_what_is_put_by_either_side_is_found_by_the_other(sdk: LangGraphClient, gateways: Gateways) -> None:
    start_worker(gateways, "worker-2", "one")
    await until_async(lambda: has_index(sdk), "the worker is known")
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
    assert sorted(named) == ["none", "one"]
