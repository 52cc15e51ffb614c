"""Checkpoints for any LangGraph program: `from agent_system.checkpoints import RedisSaver`. Each name is loaded when it
is first asked for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `agent_system`
if TYPE_CHECKING:
    from core.checkpoints import Encryption, RedisSaver, RedisStore
else:

    def __getattr__(name):
        return getattr(import_module(".core.checkpoints", __package__), name)


__all__ = ["Encryption", "RedisSaver", "RedisStore"]
