"""`python -m tests.bench.followers RUNS`: a client that has runs of the graph that speaks, and follows each.

Its settings come from the environment. It prints a line once it has a chunk of every run, and another one, JSON, when
all have ended: what it was given of them, how long each chunk took from the graph until it was here, and its CPU. With
`--deaf` nobody wants to hear what the runs tell, and it waits for their ends alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import orjson

from core import AgentClient, Task
from core.agent_run import RunOptions
from tests.bench.graphs import CHUNKS, SILENT_S, SPEAKS
from tests.bench.workload import payload

__all__ = ["SPEAKING"]

#: What it prints once every run speaks.
SPEAKING = "all speak"


class Followers:
    """All of them, in one client."""

    def __init__(self, runs: int) -> None:
        self._silent = runs
        self.first_ms: list[float] = []
        self.all_ms: list[float] = []
        self.missing = 0

    async def follow(self, client: AgentClient, task_id: str) -> None:
        """Follows a run to its end."""
        numbers: list[int] = []
        async for chunk in client.stream(task_id, ("custom",)):
            if chunk.mode != "custom":
                continue
            took_ms = (time.time() - chunk.data["at_s"]) * 1000
            self.all_ms.append(took_ms)
            if not numbers:
                self.first_ms.append(took_ms)
                self._hear()
            numbers.append(chunk.data["number"])
        if sorted(set(numbers)) != numbers:
            raise AssertionError(f"{task_id}: chunks came twice, or not in their order")
        self.missing += CHUNKS - len(numbers)

    async def await_end(self, client: AgentClient, task_id: str) -> None:
        """Waits for the end of a run that nobody hears."""
        asyncio.get_running_loop().call_later(SILENT_S * 2, self._hear)
        await client.result.aio(task_id)

    def _hear(self) -> None:
        self._silent -= 1
        if self._silent == 0:
            print(SPEAKING, flush=True)


async def main(runs: int, *, deaf: bool) -> dict[str, Any]:
    followers, options = Followers(runs), RunOptions(stream=[] if deaf else ["custom"])
    async with AgentClient(client_id="followers") as client:
        tasks = [Task(task_type=SPEAKS, payload=payload(number), run=options) for number in range(runs)]
        ids = await client.submit_many.aio(tasks)
        follow = followers.await_end if deaf else followers.follow
        async with asyncio.TaskGroup() as group:
            for task_id in ids:
                group.create_task(follow(client, task_id))
    found = {"first_ms": followers.first_ms, "all_ms": followers.all_ms, "missing": followers.missing}
    return {**found, "cpu_s": time.process_time()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.followers")
    parser.add_argument("runs", type=int)
    parser.add_argument("--deaf", action="store_true")
    options = parser.parse_args()
    print(orjson.dumps(asyncio.run(main(options.runs, deaf=options.deaf))).decode(), flush=True)
