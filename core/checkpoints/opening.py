"""Connections for savers and stores."""

from __future__ import annotations

from collections.abc import Callable

import redis
import redis.asyncio

from core.config.settings import RedisConfig
from core.ports import Connection
from core.redis_backend.own_client import OwnClient
from core.redis_client import Wire

__all__ = ["AnyClient", "opener_of"]

#: A client of redis-py, or how to reach the server.
AnyClient = redis.Redis | redis.asyncio.Redis | RedisConfig


def opener_of(client: AnyClient) -> Callable[[], Connection]:
    """What gives a new connection, which is not open yet, or the client as one."""
    return (lambda: Wire(client)) if isinstance(client, RedisConfig) else (lambda: OwnClient(client))
