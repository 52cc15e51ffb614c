"""Programs that hold a client, with the loops, threads and processes that programs have."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builders import SECRET
from tests.redis_server import RedisServer

HEAD = """
import asyncio, logging, multiprocessing, os, warnings
from core import A2AConfig, AgentClient, RedisConfig, Task
from core.errors import AgentSystemError, EventLoopError

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")  # from 3.12 on
REDIS = RedisConfig(url=os.environ["SERVER"], password=os.environ["PASSWORD"], mode="external")

def new_client():
    return AgentClient(REDIS, A2AConfig(agent_id="client", token_secret=os.environ["SECRET"]), "k")

def add(*numbers):
    return Task(task_type="add", payload=list(numbers))

def in_a_fork(function):
    '''What `function` returns, or the error it raises, in a forked process; nothing when it hangs.'''
    def run():
        try:
            answer.put(function())
        except AgentSystemError as error:
            answer.put(f"{type(error).__name__}: {error}")
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=run)
    child.start()
    value = answer.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0, child.exitcode
    return value
"""

FORKS = """
def count(client):
    return lambda: client.value(client.submit(add(1, 2)), timeout_s=15)

unused = new_client()
with new_client() as client:
    assert count(client)() == 3
    sessions = {in_a_fork(lambda: (count(one)(), one.client_id)) for one in (client, client, unused, unused)}
    assert {value for value, _ in sessions} == {3} and len(sessions) == 4, sessions
    assert in_a_fork(lambda: count(new_client())()) == 3
    assert in_a_fork(lambda: in_a_fork(count(client))) == 3
    assert in_a_fork(lambda: [one.result for one in client.as_completed(client.submit_many([add(4)]))]) == [4]

    async def inside():
        return await client.value.aio(await client.submit.aio(add(5)))
    assert in_a_fork(lambda: asyncio.run(inside())) == 5
    assert count(client)() == 3  # the children have taken nothing from their parent
"""

FORK_OF_A_COROUTINE = """
async def main():
    async with new_client() as client:
        async def count():
            return await client.value.aio(await client.submit.aio(add(1, 2)), 15)
        assert await count() == 3
        assert in_a_fork(lambda: asyncio.run(count())) == 3
        assert in_a_fork(lambda: client.value(client.submit(add(7)))) == 7
        assert await count() == 3
asyncio.run(main())
"""

SEVERAL_LOOPS = """
client = new_client()

async def count(*numbers):
    return await client.value.aio(await client.submit.aio(add(*numbers)), 15)

async def counts():
    return [task.result async for task in client.as_completed(await client.submit_many.aio([add(1), add(1)]))]

assert [asyncio.run(count(1, 2)), asyncio.run(count(3)), asyncio.run(counts())] == [3, 3, [1, 1]]
assert client.value(client.submit(add(4))) == 4      # from now on it lives on the loop of synchronous calls
assert [asyncio.run(count(5)), asyncio.run(counts())] == [5, [1, 1]]
client.close()

paused = asyncio.new_event_loop()
client = new_client()
assert paused.run_until_complete(count(6)) == 6
for elsewhere in (
    lambda: asyncio.run(count(7)), lambda: client.submit(add(7)), lambda: next(iter(client.as_completed(["t"])))
):
    try:
        elsewhere()
    except EventLoopError as error:
        assert "another event loop, which does not run now" in str(error)
    else:
        raise AssertionError("it was done")
paused.run_until_complete(client.close.aio())
paused.close()
assert client.value(client.submit(add(8))) == 8
client.close()
"""

UVLOOP = """
import uvloop
from coordinator.agent import CoordinatorAgent
from distributor.agent import DistributorAgent
from worker import agent, task
from worker.agent import WorkerAgent
from langgraph.graph import END, START, StateGraph
from typing import TypedDict

class State(TypedDict):
    n: int

@task("plain")
def plain(payload: int) -> int:
    return payload + 1

@task("coroutine")
async def coroutine(payload: int) -> str:
    return f"{payload} in {type(asyncio.get_running_loop()).__module__}"

@agent("graph")
def graph():
    built = StateGraph(State)
    async def node(state: State) -> State:
        return {"n": state["n"] + 2}
    built.add_node("node", node)
    built.add_edge(START, "node")
    built.add_edge("node", END)
    return built

def signed(name):
    return A2AConfig(agent_id=name, token_secret=os.environ["SECRET"])

async def main():
    async with (
        CoordinatorAgent("k2", REDIS, signed("k2")),
        DistributorAgent("d2", REDIS, signed("d2"), coordinator_id="k2"),
        WorkerAgent("w2", REDIS, signed("w2"), distributor_id="d2", coordinator_id="k2"),
        AgentClient(REDIS, signed("client"), "k2") as client,
    ):
        async def value(task_type, payload):
            return await client.value.aio(await client.submit.aio(Task(task_type=task_type, payload=payload)), 30)
        assert await value("plain", 1) == 2
        assert await value("coroutine", 1) == "1 in uvloop"
        assert await value("graph", {"n": 1}) == {"n": 3}

if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(main())
    with new_client() as client:
        assert client.value(client.submit(add(1, 2))) == 3
"""


AGENTS = """
from coordinator.agent import CoordinatorAgent

def new_agent(name):
    return CoordinatorAgent(name, REDIS, A2AConfig(agent_id=name, token_secret=os.environ["SECRET"]))

def problem_of(agent):
    try:
        return agent.initialize()
    except EventLoopError as error:
        return str(error)

with new_agent("k3") as agent:
    assert "in the process that this one was forked from" in in_a_fork(lambda: problem_of(agent))
    assert agent.register_distributor("d3")
    assert in_a_fork(lambda: problem_of(new_agent("k4"))) is True

warnings.simplefilter("ignore")  # of what is left open here
agent = new_agent("k5")
asyncio.run(agent.initialize.aio())
assert "on an event loop that has ended. Make a CoordinatorAgent here" in problem_of(agent)
"""

PROGRAMS = {
    "forks": FORKS,
    "fork of a coroutine": FORK_OF_A_COROUTINE,
    "several loops": SEVERAL_LOOPS,
    "agents": AGENTS,
    "uvloop": UVLOOP,
}


@pytest.mark.parametrize("redis_server", ["bundled"], indirect=True)
@pytest.mark.parametrize("text", PROGRAMS.values(), ids=list(PROGRAMS))
@pytest.mark.usefixtures("full")
async def test_a_client_works_in_the_processes_and_loops_of_a_program(
    redis_server: RedisServer, text: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(HEAD + text)
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", program, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, "SERVER": redis_server.url, "PASSWORD": redis_server.password, "SECRET": SECRET.decode()},
    )  # fmt: skip
    try:
        _, said = await asyncio.wait_for(ran.communicate(), 90)
    finally:
        with suppress(ProcessLookupError):  # none of it is left
            os.killpg(ran.pid, signal.SIGKILL)
    assert (ran.returncode, said.decode().splitlines()) == (0, [])
