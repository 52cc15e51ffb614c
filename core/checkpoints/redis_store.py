"""The store that programs use."""

from __future__ import annotations

from typing import Self

from langgraph.store.base import IndexConfig, TTLConfig

from core.checkpoints.blocking import Done, wait_for
from core.checkpoints.encryption import Encryption
from core.checkpoints.item_store import ItemStore
from core.checkpoints.opening import AnyClient, opener_of
from core.checkpoints.redis_items import RedisItems
from core.config.settings import RedisConfig

__all__ = ["RedisStore"]


class RedisStore(ItemStore):
    """Keeps LangGraph's memory beyond threads in plain Redis (6.2 or newer) or Valkey (8 or newer). One object serves
    sync and async code. It may be used as a context manager, which closes its connection."""

    def __init__(
        self,
        client: AnyClient,
        *,
        name: str = "default",
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """`client`: a client of redis-py, which stays yours, or how to reach the server. `name`: of the store; all its
        items share one hash slot. `ttl`, `index`, `encryption`: see ItemStore."""
        self._redis_items = RedisItems(opener_of(client), name)
        super().__init__(self._redis_items, ttl=ttl, index=index, encryption=encryption)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        name: str = "default",
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        encryption: Encryption | None = None,
    ) -> Self:
        """`url`: redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path?db=0. Raises ConfigError."""
        config = RedisConfig(url=url, mode="external")
        return cls(config, name=name, ttl=ttl, index=index, encryption=encryption)

    def setup(self) -> Done:
        """Does nothing: there are no tables to make. Here so that programs made for other stores run, which call or
        await it."""
        return Done()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis_items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wait_for(self._redis_items.close(), "use `async with` instead.")
