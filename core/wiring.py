"""Where ports meet their adapters: which server, which keys, and the settings that a program left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from core.config.settings import A2ASecrets, RedisConfig, with_client_certificate
from core.config.sources import load
from core.config.variables import secret_text
from core.embedded_server.embedded import ensure_server
from core.machine.local_secrets import resolve_secret
from core.operations.acl import chain_of_user
from core.roles import Address
from core.sealing import Seals
from core.signing import KeyRing

__all__ = ["keys_for", "redis_or_configured", "seals_of_agents", "secrets_or_configured", "server_for"]

log = logging.getLogger(__name__)

S = TypeVar("S", bound=A2ASecrets)


def redis_or_configured(given: RedisConfig | None) -> RedisConfig:
    """`given`, which counts as a whole, or the settings of the environment and `.env`. A name there that may be
    misspelt is logged. Raises ConfigError."""
    if given is not None:
        return given
    configured = load()
    for doubt in configured.doubts:
        log.warning("ignored: %s", doubt, extra={"action": "setting_misspelt"})
    return configured.redis


def secrets_or_configured(given: S) -> S:
    """`given`. If it names no secret, it gets those of the environment and `.env`, so that a program that only says who
    it is signs like the agents around it. Raises ConfigError."""
    if given.token_secret or given.agent_key:
        return given
    names = ("token_secret", "previous_secret", "agent_key")
    found = load().a2a
    return given.model_copy(update={name: getattr(found, name) for name in names})


async def server_for(redis: RedisConfig, a2a: A2ASecrets) -> RedisConfig:
    """How to reach the server: the configured one, or the embedded one, which is started if necessary.

    Raises TransportDown when there is none; ConfigError."""
    return await ensure_server(with_client_certificate(redis, a2a))


def keys_for(chain: tuple[Address, ...], a2a: A2ASecrets, redis: RedisConfig) -> KeyRing:
    """The keys of the last agent of `chain`: from its own key if it was given one, else from the root secret.

    Raises ConfigError when there is no secret and the server is not on this machine."""
    own = secret_text(a2a.agent_key)
    if own:
        return KeyRing.from_agent_key(own, chain)
    previous = secret_text(a2a.previous_secret)
    return KeyRing.from_secret(resolve_secret(a2a, redis), chain, previous.encode() if previous else None)


def seals_of_agents(coordinator_id: str, a2a: A2ASecrets, redis: RedisConfig) -> Callable[[str], Seals | None] | None:
    """What gives the seals of an agent by its name, as in `user_of`; None: there is only an own key, from which nobody
    else's follow. Raises ConfigError as `keys_for`."""
    if a2a.agent_key:
        return None

    @lru_cache(maxsize=4096)
    def seals_of(agent: str) -> Seals | None:
        chain = chain_of_user(agent, coordinator_id)
        return keys_for(chain, a2a, redis).seals if chain else None

    return seals_of
