"""Holders of one agent's lease, for the tests of commits and of leases: their keys, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.redis_backend.commit import Committer
from core.redis_backend.keys import CellKeys
from core.roles import Address, Role
from tests.waiting import until_async

__all__ = [
    "CELL", "KEYS", "LIST", "ME", "Make", "Redis", "connection_of", "expire", "header", "history", "lease_is_gone",
    "push", "pushed",
]  # fmt: skip

CELL = CellKeys("d")
KEYS = CELL.agent("c")
ME = Address(Role.DISTRIBUTOR, "d")
LIST = "{shared:distributor:d}:list"

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands
Make = Callable[..., Committer]


def push(value: str) -> tuple[str, str, str]:
    return ("RPUSH", LIST, value)


async def pushed(client: Redis) -> list[bytes]:
    return list(await client.lrange(LIST, 0, -1))


async def header(client: Redis) -> tuple[int, int]:
    """(version, epoch) as stored."""
    version, epoch = await client.hmget(CELL.header, "distributor_version", "epoch")
    return int(version or 0), int(epoch or 0)


async def history(client: Redis) -> list[tuple[int, int]]:
    return [(int(entry[b"version"]), int(entry[b"epoch"])) for _, entry in await client.xrange(CELL.history)]


async def connection_of(client: Redis, committer: Committer) -> int:
    """The server's number for its connection."""
    [number] = await committer.run(("CLIENT", "ID"))
    return int(number)


async def expire(client: Redis) -> None:
    """Lets the lease run out now."""
    await client.pexpire(CELL.lease, 1)
    await until_async(lambda: lease_is_gone(client), "the lease has run out")


async def lease_is_gone(client: Redis) -> bool:
    return not await client.exists(CELL.lease)
