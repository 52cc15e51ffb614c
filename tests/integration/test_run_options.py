"""What a client says about a run is what its graph finds, as under LangGraph itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.agent_run import RunOptions
from tests.executor_bench import INTEGRATION, Bench, error_of


@pytest.fixture
async def host() -> AsyncIterator[Bench]:
    bench = Bench(hosts=1, code=str(INTEGRATION / "run_options_user_graphs.py"))
    await bench.executor.start()
    yield bench
    await bench.executor.close()


async def test_a_graph_finds_what_its_client_says(host: Bench) -> None:
    said = RunOptions(
        thread_id="t1",
        context={"name": "ada"},
        config={"configurable": {"model": "small"}, "tags": ["a"], "metadata": {"by": "me"}},
    )
    ended = await host.run("looks", {"word": "x"}, run=said)
    assert ended.result["seen"] == {"model": "small", "thread_id": "t1", "tags": ["a"], "by": "me", "user": "ada"}
    ended = await host.run("looks", {"word": "x"})
    assert ended.result["seen"] == {"model": None, "thread_id": "t2", "tags": [], "by": None, "user": "nobody"}

    error = error_of(await host.run("looks", {"word": "x"}, run=RunOptions(context={"nome": "ada"})))
    assert (error.type, error.retryable) == ("BadTask", False)
    assert error.message.startswith("the context of the run does not fit User")

    error = error_of(await host.run("repeats", {"word": "x"}, run=RunOptions(config={"recursion_limit": 3})))
    assert error.type == "GraphRecursionError"
    assert "limit of 3 " in error.message

    error = error_of(await host.run("looks", {"word": "x"}, run=RunOptions(interrupt_before=["look"])))
    assert "the graph has paused" in error.message


async def test_messages_and_dataclasses_come_in_and_go_out_as_json(host: Bench) -> None:
    for state in ("dataclass", "messages"):
        run = RunOptions(config={"configurable": {"state": state}})
        ended = await host.run("talks", {"messages": [{"role": "user", "content": "hello"}]}, run=run)
        assert [(message["type"], message["content"]) for message in ended.result["messages"]] == [
            ("human", "hello"),
            ("ai", "HELLO"),
        ]
        ended = await host.run("talks", ended.result, run=run)  # what has come out goes in again
        assert [message["content"] for message in ended.result["messages"]] == ["hello", "HELLO", "HELLO"]
    assert (await host.run("counts", ["a", "b"])).result == 2
