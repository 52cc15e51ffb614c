"""The checkpointer that programs use."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from core.checkpoints.encryption import Encryption
from core.checkpoints.opening import AnyClient, opener_of
from core.checkpoints.redis_storage import RedisStorage
from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.write_size import MAX_WRITE_BYTES
from core.config.settings import RedisConfig

__all__ = ["RedisSaver"]


class RedisSaver(CheckpointSaver):
    """Keeps the checkpoints of LangGraph in plain Redis (6.2 or newer) or Valkey (8 or newer).

    One object serves sync and async code, all threads, and any number of threads of execution. It may be used as a
    context manager, which closes its connection. A process that is killed leaves each superstep stored as a whole or
    not at all."""

    def __init__(
        self,
        client: AnyClient,
        *,
        keep: int = 0,
        ttl_s: float | None = None,
        max_write_bytes: int = MAX_WRITE_BYTES,
        allowed_types: Iterable[type | tuple[str, str]] = (),
        encryption: Encryption | None = None,
    ) -> None:
        """`client`: a client of redis-py, which stays yours, or how to reach the server. `keep`: how many checkpoints
        of each namespace are kept, and besides them those where a history forks; 0: all. `ttl_s`: how long a thread is
        kept after its last write; None: for good. `max_write_bytes`: of one superstep. `allowed_types` and
        `encryption`: see CheckpointSaver and Encryption."""
        storage = RedisStorage(
            opener_of(client), keep=keep, ttl_ms=int((ttl_s or 0) * 1000), max_write_bytes=max_write_bytes
        )
        super().__init__(storage, allowed_types=allowed_types, encryption=encryption)
        self._redis_storage = storage

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        keep: int = 0,
        ttl_s: float | None = None,
        max_write_bytes: int = MAX_WRITE_BYTES,
        allowed_types: Iterable[type | tuple[str, str]] = (),
        encryption: Encryption | None = None,
    ) -> Self:
        """`url`: redis://user:password@host:6379/0, rediss:// for TLS, or unix:///path?db=0. Raises ConfigError."""
        return cls(
            RedisConfig(url=url, mode="external"),
            keep=keep,
            ttl_s=ttl_s,
            max_write_bytes=max_write_bytes,
            allowed_types=allowed_types,
            encryption=encryption,
        )

    async def aclose(self) -> None:
        """Closes the connection; a later call opens it again. A client of yours stays open."""
        await self._redis_storage.close()

    def close(self) -> None:
        self._wait("aclose", self.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
