"""Checkpoints of LangGraph, kept in plain Redis. What programs import is collected here; each name is imported when it
is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import costs more than all of this
if TYPE_CHECKING:
    from typing import Any

    from core.checkpoints.encryption import Encryption
    from core.checkpoints.redis_saver import RedisSaver
    from core.checkpoints.redis_store import RedisStore

__all__ = ["Encryption", "RedisSaver", "RedisStore"]

_HOME = {"Encryption": ".encryption", "RedisSaver": ".redis_saver", "RedisStore": ".redis_store"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
