"""Finds out what is at an address: a Redis that accepts us, one that does not, something else, or nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from enum import Enum

from core.config.settings import RedisConfig
from core.config.tls import certificate_error, tls_context
from core.embedded_server.conversation import Conversation, NotRedis, Refusal

__all__ = ["Found", "Kind", "look"]


class Kind(Enum):
    READY = "ready"  #: it accepts us and answers
    NOT_YET = "not yet"  #: it accepts us, but is loading its data or is busy
    NO_ENTRY = "no entry"  #: it requires another user or password
    OTHER = "other"  #: something listens that is not a Redis, or that hangs
    NOTHING = "nothing"  #: nothing listens, or there is no such machine


@dataclass(frozen=True, slots=True)
class Found:
    """What was found at an address."""

    kind: Kind
    why: str  #: the reason, in words for an error message


def look(config: RedisConfig, connect_timeout_s: float, reply_timeout_s: float) -> Found:
    """What is at the address of `config`. Raises ConfigError when TLS files cannot be used, or the server's certificate
    is not accepted."""
    try:
        connection = _connected(config, connect_timeout_s)
    except ssl.SSLCertVerificationError as error:
        raise certificate_error(config, error) from error
    except ssl.SSLError as error:
        return Found(Kind.OTHER, f"no TLS there: {error.reason}")
    except OSError as error:
        # Errors of resolvers and timeouts have no number, or one of their own.
        return Found(Kind.NOTHING, (error.strerror or str(error)).lower())
    connection.settimeout(reply_timeout_s)
    with Conversation(connection) as talk:
        return _greet(talk, config)


def _connected(config: RedisConfig, timeout_s: float) -> socket.socket:
    endpoint = config.endpoint
    if endpoint.socket_path is not None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(endpoint.socket_path))
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    if not endpoint.use_tls:
        return connection
    with contextlib.ExitStack() as on_error:
        on_error.callback(connection.close)
        connection = tls_context(config).wrap_socket(connection, server_hostname=endpoint.host)
        on_error.pop_all()
    return connection


def _greet(talk: Conversation, config: RedisConfig) -> Found:
    endpoint = config.endpoint
    try:
        if endpoint.password is not None:
            user = [endpoint.username] if endpoint.username else []
            talk.ask("AUTH", *user, endpoint.password.get_secret_value())
        talk.ask("PING")
    except Refusal as refusal:
        text = str(refusal)
        shut_out = text.startswith(("NOAUTH", "WRONGPASS", "DENIED", "NOPERM", "ERR AUTH"))
        return Found(Kind.NO_ENTRY if shut_out else Kind.NOT_YET, text)
    except NotRedis as error:
        why = "another program listens there, or a proxy on the way answers for a host that cannot be reached"
        return Found(Kind.OTHER, f"what answers is no Redis, it said {str(error)!r}: {why}")
    except OSError as error:
        return Found(Kind.OTHER, f"what listens there does not answer: {(error.strerror or str(error)).lower()}")
    return Found(Kind.READY, "it answers")
