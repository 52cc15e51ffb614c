"""What a checkpoint costs: RedisSaver beside LangGraph's saver in memory, in turns, in one process and on one server.

`python -m tests.bench.checkpoints` prints, for a graph of five nodes that do nothing, the CPU of this process (µs) and
the commands of the server for each superstep, one run at a time and many at once, and the median time of a run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import count
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from core.checkpoints import RedisSaver
from core.config.settings import RedisConfig
from tests.redis_server import RedisServer, bundled_server

NODES = 5
SUPERSTEPS = NODES + 2  # the input and the start
RUNS, ROUNDS = 100, 2
_numbers = count()


class State(TypedDict):
    number: int


async def nothing(state: State) -> State:
    return {"number": state["number"] + 1}


def graph_of(saver: BaseCheckpointSaver[Any] | None) -> Any:
    builder = StateGraph(State).add_sequence([(f"node{number}", nothing) for number in range(NODES)])
    return builder.add_edge(START, "node0").compile(checkpointer=saver)


async def run_once(graph: Any) -> float:
    """Seconds."""
    config: RunnableConfig = {"configurable": {"thread_id": f"thread-{next(_numbers)}"}}
    began = time.perf_counter()
    options = {"durability": "sync"} if graph.checkpointer else {}
    await graph.ainvoke({"number": 0}, config, **options)
    return time.perf_counter() - began


async def measure(graph: Any, server: RedisServer, at_once: int) -> tuple[float, float, float]:
    """CPU (µs) and commands of a superstep, and the median of a run (ms)."""
    took: list[float] = []
    cpu, commands = time.process_time(), commands_of(server)
    for _ in range(RUNS // at_once):
        took += await asyncio.gather(*(run_once(graph) for _ in range(at_once)))
    supersteps = len(took) * SUPERSTEPS
    spent_us = (time.process_time() - cpu) / supersteps * 1e6
    return spent_us, (commands_of(server) - commands) / supersteps, statistics.median(took) * 1000


def commands_of(server: RedisServer) -> int:
    with server.connect() as client:
        stats: Any = client.info("commandstats")
        return sum(value["calls"] for name, value in stats.items() if "evalsha" in name)


async def main() -> None:
    with RedisServer(bundled_server()) as server:
        config = RedisConfig(url=server.url, password=server.password, mode="external")
        async with RedisSaver(config) as saver:
            graphs = {"no saver": graph_of(None), "in memory": graph_of(InMemorySaver()), "Redis": graph_of(saver)}
            print(f"{'':10} {'at once':>8} {'CPU µs/superstep':>18} {'commands/superstep':>19} {'run p50 ms':>11}")
            for at_once in (1, 25):
                rounds = [
                    {name: await measure(graph, server, at_once) for name, graph in graphs.items()}
                    for _ in range(ROUNDS)
                ]
                for name in graphs:
                    cpu_us, commands, p50_ms = min(each[name] for each in rounds)
                    print(f"{name:10} {at_once:8} {cpu_us:18.0f} {commands:19.2f} {p50_ms:11.2f}")


if __name__ == "__main__":
    asyncio.run(main())
