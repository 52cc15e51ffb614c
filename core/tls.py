"""The TLS side of a connection to Redis."""

from __future__ import annotations

import ssl

from core.config import RedisConfig
from core.errors import ConfigError

__all__ = ["tls_context", "untrusted"]


def tls_context(config: RedisConfig) -> ssl.SSLContext:
    """Verifies the server against `ca_path` (or the system's CAs) and presents `cert_path`, if given.

    Raises ConfigError when one of the files is unreadable or no PEM.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca_path)
        if config.cert_path is not None:
            context.load_cert_chain(config.cert_path, config.key_path)
    except OSError as error:
        raise ConfigError(
            f"the TLS files cannot be used ({error}). Set REDIS_CA_PATH, A2A_CERT_PATH and A2A_KEY_PATH to PEM files."
        ) from error
    return context


def untrusted(config: RedisConfig, error: ssl.SSLCertVerificationError) -> ConfigError:
    """The error to raise when the server's certificate was not accepted."""
    return ConfigError(
        f"the certificate of {config.endpoint} is not trusted: {error.verify_message}."
        " Set REDIS_CA_PATH to the CA that signed it."
    )
