"""A gateway that cannot be opened says so in one line, with the cure, before it says that it answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from core.errors import TransportDown
from tests.gateways import free_port

ROOT = Path(__file__).parents[2]
HASH = "0" * 64


def opened(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "core.gateway", *flags],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_port_that_is_taken_is_told_with_the_cure() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        ran = opened("--port", f"{port}")
    assert ran.returncode == 78, ran.stderr
    [said] = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert said.endswith(
        f"cannot listen at 127.0.0.1:{port}: another program listens there already. Stop it, or choose another port."
    )
    assert "gateway_started" not in ran.stderr


@pytest.mark.parametrize(
    ("host", "keys", "said"),
    [
        ("0.0.0.0", "", "others can reach it there, so it needs keys or tokens"),
        ("192.0.2.1", f"ada:viewer:{HASH}", "that is no address of this machine"),
    ],
)
def test_an_address_at_which_it_may_not_listen_is_told_with_the_cure(host: str, keys: str, said: str) -> None:
    ran = opened("--host", host, GATEWAY_KEYS=keys)
    assert (ran.returncode, said in ran.stderr) == (78, True), ran.stderr


def test_a_server_that_is_away_is_told_with_the_cure_and_not_as_a_bug() -> None:
    nobody = free_port()
    ran = opened("--port", f"{free_port()}", REDIS_URL=f"redis://127.0.0.1:{nobody}/0", REDIS_MODE="external")
    assert ran.returncode == TransportDown.exit_code, ran.stderr
    said, cure = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert said.endswith(f"Redis does not answer at redis://127.0.0.1:{nobody}/0: connection refused.")
    assert "Start it there" in cure
    assert "gateway_started" not in ran.stderr
    assert "Traceback" not in ran.stderr
