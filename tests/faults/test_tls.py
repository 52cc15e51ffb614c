"""Agents whose every connection is encrypted, with certificates on both sides: lines 1 and 10 of the matrix once more.

The bundled server speaks no TLS, so this is Debian's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config.settings import RedisConfig
from tests.certificates import self_signed
from tests.faults.outages import all_act, under_load
from tests.faults.stage import Stage
from tests.redis_server import RedisServer


class Encrypted:
    """A server that is reached over TLS, by those who have the client's certificate."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self._server = server
        self._mine, self._theirs = self_signed(directory, "server"), self_signed(directory, "client")
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = unused.getsockname()[1]
        self.listen()

    def listen(self) -> None:
        """To be called after each start of the server, which knows nothing of it."""
        self._configure(
            tls_cert_file=self._mine.cert, tls_key_file=self._mine.key, tls_ca_cert_file=self._theirs.cert,
            tls_auth_clients="yes", tls_port=self.port,
        )  # fmt: skip

    def close(self) -> None:
        self._configure(tls_port=0)

    def _configure(self, **settings: object) -> None:
        parts = [part for name, value in settings.items() for part in (name.replace("_", "-"), f"{value}")]
        self._server.ask("CONFIG", "SET", *parts)

    @property
    def redis(self) -> RedisConfig:
        """How a client of these tests gets to it."""
        return RedisConfig(
            url=f"rediss://127.0.0.1:{self.port}/0", password=self._server.password, mode="external",
            ca_path=self._mine.cert, cert_path=self._theirs.cert, key_path=self._theirs.key,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return {
            "REDIS_URL": f"rediss://127.0.0.1:{self.port}/0",
            "REDIS_CA_PATH": f"{self._mine.cert}",
            "A2A_USE_MTLS": "true",
            "A2A_CERT_PATH": f"{self._theirs.cert}",
            "A2A_KEY_PATH": f"{self._theirs.key}",
        }


@pytest.fixture
def encrypted(stage: Stage, tmp_path: Path) -> Iterator[Encrypted]:
    encrypted = Encrypted(stage.server, tmp_path)
    yield encrypted
    encrypted.close()


@pytest.mark.matrix(1, 10)
@pytest.mark.parametrize("chaos_server", [pytest.param("redis", marks=pytest.mark.real_redis)], indirect=True)
def test_over_tls_a_worker_and_the_server_are_killed_and_every_task_ends_once(
    stage: Stage, encrypted: Encrypted
) -> None:
    stage.start(**encrypted.environment)
    all_act(stage)
    with under_load(stage, redis=encrypted.redis) as load:
        load.progress()
        stage.processes.kill("worker-1")
        stage.start("worker-1", **encrypted.environment)
        stage.ready("worker-1")
        load.progress()
        stage.server.write_log()
        stage.server.kill()
        stage.server.start()
        encrypted.listen()
        load.progress()

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert load.submitter.lost == []
