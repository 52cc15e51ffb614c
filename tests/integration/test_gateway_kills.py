"""Gateways that are killed in the middle of a stream: the SDK of LangGraph has it whole all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import httpx
import orjson
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from core.chaos.processes import Processes
from tests.executor_bench import INTEGRATION
from tests.gateway_door import data_of
from tests.gateways import Gateways, gateways_of
from tests.waiting import until_async

NUMBERS = 400
UP_TO: Any = {"up_to": NUMBERS}
#: After how many events a reader is interrupted, in the middle of what is told.
SOME = 100


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Gateways]:
    code = str(INTEGRATION / "counting_user_graphs.py")
    with gateways_of(processes, tmp_path_factory.mktemp("gateway"), code, WORKER_HOSTS="1") as opened:
        opened.start_all({}, {})
        yield opened


@pytest.fixture
async def sdks(gateways: Gateways) -> AsyncIterator[list[LangGraphClient]]:
    """The SDK at each gateway, once there is a graph."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(get_client(url=url, api_key=None)) for url in gateways.urls]
        await until_async(lambda: clients[0].assistants.count(), "the graph is there", 60)
        yield clients


async def told_at_most(stream: Any, limit: int) -> list[Any]:
    """The next events of a stream, until there are so many or it ends."""
    parts: list[Any] = []
    async with aclosing(stream):
        async for part in stream:
            parts.append(part)
            if len(parts) == limit:
                break
    return parts


def assert_whole(parts: list[Any]) -> None:
    assert data_of(parts, "custom") == [*range(NUMBERS)]
    assert data_of(parts, "updates") == [{"count": {"up_to": NUMBERS}}]


async def test_a_stream_of_a_run_goes_on_at_whichever_gateway_lives(
    gateways: Gateways, sdks: list[LangGraphClient]
) -> None:
    thread = (await sdks[0].threads.create())["thread_id"]
    made: list[Any] = []
    parts = await told_at_most(
        sdks[0].runs.stream(
            thread, "counts", input=UP_TO, stream_mode=["custom", "updates"], on_run_created=made.append
        ),
        SOME,
    )
    run_id = made[0]["run_id"]
    for dead, alive in ((0, 1), (1, 0)):
        gateways.kill(gateways.urls[dead])
        assert parts[-1].event == "custom"
        parts += await told_at_most(sdks[alive].runs.join_stream(thread, run_id, last_event_id=parts[-1].id), SOME)
        gateways.start_again(gateways.urls[dead])
    rest = await told_at_most(sdks[0].runs.join_stream(thread, run_id, last_event_id=parts[-1].id), 2 * NUMBERS)

    assert_whole([*parts, *rest])
    assert [part.event for part in [*parts, *rest]].count("end") == 1
    assert rest[-1].event == "end"


async def test_the_same_loop_over_a_stream_goes_on_once_its_gateway_is_there_again(
    gateways: Gateways, sdks: list[LangGraphClient]
) -> None:
    thread = (await sdks[0].threads.create())["thread_id"]
    run = await sdks[0].runs.create(thread, "counts", input=UP_TO, stream_mode=["custom", "updates"])
    parts: list[Any] = []
    async for part in sdks[0].runs.join_stream(thread, run["run_id"], stream_mode="custom"):
        parts.append(part)
        if len(parts) == SOME:
            gateways.kill(gateways.urls[0])
            gateways.start_again(gateways.urls[0])

    assert data_of(parts, "custom") == [*range(NUMBERS)]
    assert {part.event for part in parts} == {"metadata", "custom", "end"}
    assert [part.event for part in parts].index("end") == len(parts) - 1


async def test_a_stream_of_a_thread_goes_on_at_another_gateway(gateways: Gateways, sdks: list[LangGraphClient]) -> None:
    thread = (await sdks[0].threads.create())["thread_id"]
    for _ in range(2):
        await sdks[0].runs.create(thread, "counts", input=UP_TO, stream_mode=["custom", "updates"])
    parts = await told_at_most(await sdks[0].threads.join_stream(thread), NUMBERS + SOME)
    gateways.kill(gateways.urls[0])

    stream: Any = await sdks[1].threads.join_stream(thread, last_event_id=parts[-1].id)
    async with aclosing(stream):
        async for part in stream:
            parts.append(part)
            if sum(said.get("status") == "run_done" for said in data_of(parts, "metadata")) == 2:
                break

    gateways.start_again(gateways.urls[0])
    assert data_of(parts, "custom") == [*range(NUMBERS)] * 2
    assert data_of(parts, "updates") == [{"count": {"up_to": NUMBERS}}] * 2


async def test_a_thread_stream_goes_on_behind_a_number_at_another_gateway(
    gateways: Gateways, sdks: list[LangGraphClient]
) -> None:
    wanted: Any = {"channels": ["custom", "lifecycle", "updates"]}
    thread = (await sdks[0].threads.create())["thread_id"]
    for _ in range(2):
        await sdks[0].runs.create(thread, "counts", input=UP_TO)
    told = [one async for one in thread_events(gateways.urls[0], thread, wanted, NUMBERS + SOME)]
    gateways.kill(gateways.urls[0])
    left = 2 * (NUMBERS + 3) - len(told)
    told += [one async for one in thread_events(gateways.urls[1], thread, {**wanted, "since": told[-1]["seq"]}, left)]
    gateways.start_again(gateways.urls[0])

    ids, numbers = [one["event_id"] for one in told], [one["seq"] for one in told]
    assert len({*ids}) == len(ids)
    assert sorted({*numbers}) == numbers
    assert [one["params"]["data"]["payload"] for one in told if one["method"] == "custom"] == [*range(NUMBERS)] * 2
    states = [one["params"]["data"]["event"] for one in told if one["method"] == "lifecycle"]
    assert states == ["running", "completed"] * 2
    again = [one async for one in thread_events(gateways.urls[0], thread, wanted, len(told))]
    assert [(one["event_id"], one["seq"]) for one in again] == [*zip(ids, numbers, strict=True)]


async def thread_events(url: str, thread_id: str, body: Any, limit: int) -> AsyncIterator[Any]:
    """So many of the events that a thread stream tells."""
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", f"{url}/threads/{thread_id}/stream/events", json=body) as response,
    ):
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield orjson.loads(line.removeprefix("data: "))
                limit -= 1
                if not limit:
                    return
