"""What an agent tells a probe, and what `agents healthcheck` makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.chaos.processes import Processes
from core.cli.probe import probe, target
from core.config.settings import RedisConfig
from core.errors import ConfigError
from core.redis_backend.keys import CoordinatorKeys
from core.runtime.condition import Condition
from core.runtime.health import HEAD_BYTES, MAX_CONNECTIONS, health_server
from tests.integration.speaker import Redis
from tests.redis_server import RedisServer
from tests.tiers import ForkedTiers
from tests.waiting import until_async


class Agent:
    """What it says of itself is up to the test."""

    condition = Condition("ready")


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def port(agent: Agent) -> AsyncIterator[int]:
    async with health_server(lambda: agent.condition, lambda: b"metrics", "127.0.0.1", 0) as port:
        yield port


async def asked(port: int, request: bytes) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]) if head else 0, body


async def got(port: int, path: str) -> tuple[int, dict[str, object]]:
    code, body = await asked(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return code, json.loads(body)


async def test_a_ready_agent_answers_200_to_both_questions(port: int) -> None:
    for path in ("/livez", "/readyz", "/readyz?verbose"):
        assert await got(port, path) == (200, {"status": "ready", "reasons": []})


async def test_an_agent_without_redis_lives_and_is_not_ready_and_says_why(port: int, agent: Agent) -> None:
    agent.condition = Condition("unready", ("Redis is away",))

    assert await got(port, "/readyz") == (503, {"status": "unready", "reasons": ["Redis is away"]})
    assert (await got(port, "/livez"))[0] == 200


async def test_a_standby_is_ready_and_one_that_starts_or_drains_is_not(port: int, agent: Agent) -> None:
    codes = []
    for status in ("standby", "starting", "draining"):
        agent.condition = Condition(status)
        codes.append((await got(port, "/readyz"))[0])

    assert codes == [200, 503, 503]


async def test_a_wedged_agent_does_not_live(port: int, agent: Agent) -> None:
    agent.condition = Condition("wedged", ("nothing has moved for 6 s",))

    assert ((await got(port, "/livez"))[0], (await got(port, "/readyz"))[0]) == (503, 503)


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"POST /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /livezz HTTP/1.1\r\n\r\n", 404),
        (b"GET /../livez HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n", 400),
        (b"\r\n\r\n", 405),
    ],
)
async def test_whatever_else_is_asked_is_refused_and_the_next_probe_answered(
    port: int, request_bytes: bytes, code: int
) -> None:
    assert (await asked(port, request_bytes))[0] == code
    assert (await got(port, "/livez"))[0] == 200


async def test_who_connects_and_says_nothing_is_cut_off(port: int) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]

    async with asyncio.timeout(10):
        assert [await reader.read() for reader, _ in silent] == [b""] * MAX_CONNECTIONS
    assert (await got(port, "/livez"))[0] == 200
    for _, writer in silent:
        writer.close()


async def test_a_probe_is_answered_at_once_however_many_hold_connections_and_say_little(port: int) -> None:
    opened = 0

    async def slow() -> None:
        nonlocal opened
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            opened += 1
            try:
                while not writer.is_closing():
                    writer.write(b"G")
                    await asyncio.sleep(0.05)  # what a slow client does; nothing is waited for
            finally:
                writer.close()

    slows = [asyncio.create_task(slow()) for _ in range(2 * MAX_CONNECTIONS)]
    try:
        # Sooner there are places left, and whoever asks is answered.
        await until_async(lambda: opened > len(slows), "all places are taken, and who was sent away has come back")
        answers = [(await asked(port, b"GET /livez HTTP/1.1\r\n\r\n"))[0] for _ in range(30)]
    finally:
        for probe in slows:
            probe.cancel()
        await asyncio.gather(*slows, return_exceptions=True)
    assert answers == [200] * 30


@pytest.mark.parametrize("code", [200, 404])
async def test_whoever_answers_a_probe_moves_no_cursor_and_begins_no_line(
    code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {code} x\r\n\r\nready\x1b[2J\nFORGED\u2028FORGED".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(probe, [f"http://127.0.0.1:{port}"]) == (0 if code == 200 else 1)

    assert "".join(capfd.readouterr()) == "ready\\x1b[2J\\nFORGED\\u2028FORGED\n"


async def test_a_port_that_is_taken_is_an_error_that_names_the_cure(port: int, agent: Agent) -> None:
    with pytest.raises(ConfigError, match=rf"AGENT_HEALTH_PORT: 127.0.0.1:{port} .* port of its own"):
        async with health_server(lambda: agent.condition, lambda: b"metrics", "127.0.0.1", port):
            pass


@pytest.mark.parametrize(
    ("url", "port", "live", "expected"),
    [
        ("", "80", False, ("127.0.0.1", 80, "/readyz")),
        ("", "80", True, ("127.0.0.1", 80, "/livez")),
        ("http://far:81", "80", True, ("far", 81, "/livez")),
        ("http://[::1]:81/readyz", "", True, ("::1", 81, "/readyz")),
        ("far:81", "", False, ("far", 81, "/readyz")),
    ],
)
def test_a_probe_asks_where_it_is_told_to(url: str, port: str, live: bool, expected: tuple[str, int, str]) -> None:
    assert target(url, port, live) == expected


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--port"], ["--port", "x"], ["https://far:81"], ["http://far"], ["a:1", "b:1"]]
)
def test_what_a_probe_does_not_understand_is_left_to_who_can_explain_it(arguments: list[str]) -> None:
    assert probe(arguments) is None


async def healthcheck(*arguments: str) -> tuple[int | None, str, str]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "core.cli", "healthcheck", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await running.communicate()
    return running.returncode, out.decode(), err.decode()


async def test_the_command_ends_with_0_or_1_and_passes_on_what_the_agent_says(port: int, agent: Agent) -> None:
    code, out, _ = await healthcheck("--port", f"{port}")
    assert (code, json.loads(out)["status"]) == (0, "ready")

    agent.condition = Condition("unready", ("no Redis",))
    code, out, err = await healthcheck(f"http://127.0.0.1:{port}")
    assert (code, out, json.loads(err)["reasons"]) == (1, "", ["no Redis"])
    assert (await healthcheck("--live", "--port", f"{port}"))[0] == 0


async def test_the_command_explains_itself_and_says_that_nobody_answers(agent: Agent) -> None:
    async with health_server(lambda: agent.condition, lambda: b"metrics", "127.0.0.1", 0) as port:
        pass
    code, _, err = await healthcheck("--port", f"{port}")
    assert code == 1
    assert f"no answer at 127.0.0.1:{port}" in err

    code, _, err = await healthcheck()
    assert code == 2
    assert "AGENT_HEALTH_PORT" in err


async def answer(port: int, path: str = "/readyz") -> tuple[int, str]:
    """Nobody there: 0."""
    try:
        code, said = await got(port, path)
    except OSError:
        return 0, ""
    return code, str(said["status"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def test_a_process_is_ready_while_it_works_and_its_standby_while_it_waits_and_without_redis_both_only_live(
    redis_config: RedisConfig, redis_server: RedisServer, processes: Processes, client: Redis, tmp_path: Path
) -> None:
    acting, waiting = free_port(), free_port()
    with ForkedTiers(processes, redis_config, tmp_path) as tiers:
        tiers.start("coordinator", "c", "--health-port", f"{acting}")
        await until_async(lambda: is_answer(acting, (200, "ready")), "the coordinator is ready")
        tiers.start("coordinator", "waiting", "--id", "c", "--standby", "--health-port", f"{waiting}")
        standbys = CoordinatorKeys("c").agent.standbys
        await until_async(lambda: client.exists(standbys), "the standby has seen who acts, and waits")
        assert await answer(waiting) == (200, "standby")

        redis_server.kill()

        await until_async(lambda: is_answer(acting, (503, "unready")), "without Redis it is not ready")
        assert (await answer(acting, "/livez"))[0] == (await answer(waiting, "/livez"))[0] == 200
        redis_server.start()
        await until_async(lambda: either_is_ready(acting, waiting), "one of them acts again")


async def is_answer(port: int, expected: tuple[int, str]) -> bool:
    return await answer(port) == expected


async def either_is_ready(*ports: int) -> bool:
    return (200, "ready") in [await answer(port) for port in ports]


def test_a_probe_imports_next_to_nothing() -> None:
    """It costs less than three bare starts of Python; the other commands twenty."""
    look = "import sys; bare = set(sys.modules); import core.cli.__main__; print(*set(sys.modules) - bare)"
    loaded = subprocess.run([sys.executable, "-c", look], env=os.environ, capture_output=True, check=True, text=True)

    modules = set(loaded.stdout.split())
    assert {name for name in modules if name.startswith("core")} == {
        "core", "core.cli", "core.cli.__main__", "core.cli.output", "core.cli.probe",
    }  # fmt: skip
    assert not modules & {"typing", "typer", "rich", "pydantic", "redis", "asyncio", "argparse", "json", "re"}
