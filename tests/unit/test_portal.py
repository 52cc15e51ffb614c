"""What a program gets from an operation: its value, its error, its signature; or a word on where it cannot work."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import traceback
from concurrent.futures import Future

import pytest

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.config.settings import RedisConfig
from core.errors import EventLoopError, TransportDown
from core.redis_client import Wire
from core.runtime.portal import Resident, operation, portal_loop
from core.tasks import Task


class Counter(Resident):
    """Counts the calls, and where they ran."""

    def __init__(self) -> None:
        self.ran_on: list[asyncio.AbstractEventLoop] = []

    @operation
    async def count(self, by: int = 1) -> int:
        """How often it was called."""
        self.ran_on.append(asyncio.get_running_loop())
        return by * len(self.ran_on)


# ---- where it is called ----


@pytest.mark.parametrize("held", [AgentClient, lambda: CoordinatorAgent("k")], ids=["client", "agent"])
async def test_with_inside_of_a_coroutine_raises_at_once_and_names_async_with(held: type[AgentClient]) -> None:
    with pytest.raises(EventLoopError, match=r"would block the event loop .*: use `async with`"), held():
        pass


async def test_for_inside_of_a_coroutine_raises_at_once_and_names_async_for() -> None:
    with pytest.raises(EventLoopError, match="use `async for`"):
        list(AgentClient().as_completed(["task-1"]))


def test_a_synchronous_call_is_one_also_where_the_background_loop_shares_its_thread() -> None:
    """As under gevent, whose patch makes threads of one thread: the loop that runs there is not the caller's."""
    counter, value = Counter(), Future[int]()

    def call() -> None:
        asyncio._set_running_loop(portal_loop())
        value.set_result(counter.count(7))

    threading.Thread(target=call, daemon=True).start()

    assert value.result(timeout=20) == 7
    assert counter.ran_on == [portal_loop()]


def test_what_lives_on_a_running_loop_is_called_there_from_everywhere() -> None:
    counter = Counter()
    assert counter.count() == 1

    async def elsewhere() -> list[int]:
        return [await counter.count.aio(), await asyncio.to_thread(counter.count)]

    assert asyncio.run(elsewhere()) == [2, 3]
    assert counter.ran_on == [portal_loop()] * 3


# ---- what comes out of it ----


def unreachable() -> RedisConfig:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return RedisConfig(host="127.0.0.1", port=bound.getsockname()[1], mode="external")


def test_the_error_of_a_synchronous_call_is_one_traceback_that_ends_in_the_cure() -> None:
    client = AgentClient(unreachable())
    for call in (client.open, lambda: client.submit(Task(task_type="t")), lambda: list(client.as_completed(["t"]))):
        with pytest.raises(TransportDown) as caught:
            call()
        shown = traceback.format_exception(caught.value)
        assert sum(line.startswith("Traceback") for line in shown) == 1
        assert shown[-1].startswith("core.errors.TransportDown: ")
        assert "run_coroutine_threadsafe" not in "".join(shown[:-2])


def test_an_operation_shows_the_signature_and_the_words_of_its_method() -> None:
    counter = Counter()
    assert str(inspect.signature(counter.count)) == "(by: 'int' = 1) -> 'int'"
    assert str(inspect.signature(Counter.count)) == "(self, by: 'int' = 1) -> 'int'"
    assert counter.count.__doc__ == Counter.count.__doc__ == "How often it was called."


# ---- connections ----


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "no-such-host.invalid", "a..b"])
async def test_a_host_that_is_none_is_transport_down(host: str) -> None:
    with pytest.raises(TransportDown, match="cannot be reached"):
        await Wire(RedisConfig(host=host, mode="external")).connect()


class Odd(asyncio.SelectorEventLoop):
    """A loop that has something against us."""

    async def create_connection(self, *_: object, **__: object) -> None:  # type: ignore[override]
        raise AssertionError("not like this")


def test_whatever_a_loop_raises_while_it_connects_is_transport_down() -> None:
    with (
        asyncio.Runner(loop_factory=Odd) as runner,
        pytest.raises(TransportDown, match="cannot be reached: not like this"),
    ):
        runner.run(Wire(RedisConfig(host="localhost", mode="external")).connect())
