"""Finds the root secret with which an agent signs."""

from __future__ import annotations

from core.config.directories import directory_of
from core.config.settings import MIN_SECRET_CHARACTERS, NEW_SECRET, A2ASecrets, RedisConfig
from core.config.variables import secret_text
from core.errors import ConfigError
from core.machine.private_files import kept_secret

__all__ = ["resolve_secret"]


def resolve_secret(a2a: A2ASecrets, redis: RedisConfig) -> bytes:
    """The root secret: the configured one, or else the secret of this machine, which is made on first use.

    Only agents on this machine share the latter, so Redis must be at a Unix socket or a loopback address. Raises
    ConfigError if it is elsewhere.
    """
    text = secret_text(a2a.token_secret)
    if text is not None:
        return text.encode()
    if not redis.endpoint.is_local:
        raise ConfigError(
            f"A2A_TOKEN_SECRET is not set, and agents that meet at {redis.endpoint} need keys that go together."
            f"\nOn the coordinator's machine make a secret with  {NEW_SECRET}  and set A2A_TOKEN_SECRET, or"
            " A2A_TOKEN_SECRET_FILE. On the others set A2A_AGENT_KEY, or A2A_AGENT_KEY_FILE, to what"
            "  agents key ROLE ID  prints there."
        )
    path = directory_of(redis) / "a2a-secret"
    kept = kept_secret(path)
    if len(kept) < MIN_SECRET_CHARACTERS:
        raise ConfigError(
            f"the secret in {path} has {len(kept)} characters, fewer than {MIN_SECRET_CHARACTERS}."
            " Remove the file, and a good one is made."
        )
    return kept.encode()
