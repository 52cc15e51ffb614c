"""Graphs that call the server that runs them, as LangGraph's SDK lets them: by a client without a URL."""

from __future__ import annotations

from typing import Any

from langgraph_sdk.client import LangGraphClient

from tests.executor_bench import INTEGRATION, Bench, error_of
from tests.gateway_door import Door

CODE = str(INTEGRATION / "calling_user_graphs.py")


async def test_a_client_without_a_url_finds_the_gateway_that_the_worker_names(door: Door, sdk: LangGraphClient) -> None:
    worker = ("worker", "worker-3", "--distributor", "distributor-1", "--import", CODE)
    door.tiers.start(*worker, AGENT_GATEWAY_URL=door.urls[0])

    task = {"task_id": "calling", "task_type": "calls", "payload": {"graph": "steps"}}
    await sdk.http.post("/tasks/submit", json=task)
    answer: Any = await sdk.http.get("/tasks/calling/wait", params={"timeout_s": "30"})

    assert answer["result"]["waited"] == {"done": ["called", "first", "second"]}
    assert answer["result"]["streamed"] == ["metadata", "custom", "updates", "custom", "updates", "end"]


async def test_without_a_gateway_it_is_told_what_to_do() -> None:
    bench = Bench(agent_concurrency=1, hosts=1, code=CODE)
    await bench.executor.start()
    try:
        error = error_of(await bench.run("calls", {"graph": "steps"}))
    finally:
        await bench.executor.close()
    assert error.type == "ConfigError"
    assert "AGENT_GATEWAY_URL" in error.message
