"""TLS for connections to Redis."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Final

from core.config.settings import RedisConfig
from core.errors import ConfigError

__all__ = ["certificate_error", "tls_context"]

#: OpenSSL's X509_V_ERR_... numbers, as in `verify_code`.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = (62, 64)  # a name, an address


def tls_context(config: RedisConfig) -> ssl.SSLContext:
    """A context that verifies the server against `ca_path` (or the system's CAs), and presents `cert_path`, if given.

    Raises ConfigError when a file cannot be read or is not PEM, or `cert_path` is not valid now.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca_path)
        if config.cert_path is not None:
            context.load_cert_chain(config.cert_path, config.key_path)
            _refuse_outdated(config)
    except OSError as error:
        raise ConfigError(
            f"the TLS files cannot be used ({error}). Set REDIS_CA_PATH, A2A_CERT_PATH and A2A_KEY_PATH to PEM files."
        ) from error
    return context


def _refuse_outdated(config: RedisConfig) -> None:
    """Raises ConfigError when the client certificate is not valid now. A server would just close the connection, mostly
    without saying why."""
    from cryptography.x509 import load_pem_x509_certificate  # slow to import, and seldom needed

    assert config.cert_path
    certificate = load_pem_x509_certificate(config.cert_path.read_bytes())
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= datetime.now(UTC) <= ends:
        raise ConfigError(
            f"the client certificate in {config.cert_path} is valid from {begins} to {ends}, which is not now."
            " Renew it (A2A_CERT_PATH, A2A_KEY_PATH), or set this machine's clock."
        )


def certificate_error(config: RedisConfig, error: ssl.SSLCertVerificationError) -> ConfigError:
    """The error to raise when the server's certificate is not accepted."""
    if error.verify_code == _EXPIRED:
        cure = (
            "Renew it, or the CA's that signed it if that has expired, and have the server load it."
            " If it is valid still, set this machine's clock."
        )
    elif error.verify_code == _NOT_YET_VALID:
        cure = "Set the clock of this machine, or of the one that issued it; else wait, or have another one issued."
    elif error.verify_code in _OTHER_NAMES:
        cure = "Set REDIS_HOST, or REDIS_URL, to a name that it is for, or renew it with this name in it."
    else:
        cure = "Set REDIS_CA_PATH to the CA that signed it."
    problem = error.verify_message.rstrip(".")
    return ConfigError(f"the certificate of {config.endpoint} is not accepted: {problem}. {cure}")
