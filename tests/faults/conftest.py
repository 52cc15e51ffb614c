"""What the lines of the fault matrix run on: servers that keep a history, and one process that forks all agents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import installed_or_skip

if TYPE_CHECKING:
    from core.chaos.processes import Processes
    from tests.faults.machines import Machines
    from tests.faults.stage import Stage
    from tests.redis_server import RedisServer


@pytest.fixture(scope="session", params=["bundled", pytest.param("redis", marks=pytest.mark.real_redis)])
def chaos_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server whose append-only file holds all that was ever written; what uses it runs twice, as `redis_server`."""
    from tests.redis_server import RedisServer, bundled_server

    binary = installed_or_skip() if request.param == "redis" else bundled_server()
    with RedisServer(binary, append_only=True) as server:
        yield server


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`agents ...`, run in this process: what it prints."""
    from typer.testing import CliRunner

    from core.cli.app import app
    from core.client import waiting

    # It silences this for its process, and here that is everybody's; the patch gives it back.
    monkeypatch.setattr(logging.getLogger(waiting.__name__), "disabled", False)
    return lambda command: str(CliRunner().invoke(app, command.split()).output)


class Lasting:
    """A hierarchy that lasts from test to test, as long as they find nothing wrong with it."""

    def __init__(self) -> None:
        self.stage: Stage | None = None

    def close(self) -> None:
        if self.stage:
            self.stage.close()
            self.stage = None


@pytest.fixture(scope="module")
def _lasting(chaos_server: RedisServer) -> Iterator[Lasting]:
    lasting = Lasting()
    yield lasting
    lasting.close()


@pytest.fixture
def stage(chaos_server: RedisServer, processes: Processes, _lasting: Lasting, tmp_path: Path) -> Iterator[Stage]:
    """An empty server and nobody on it."""
    from tests.faults.stage import Stage

    _lasting.close()
    opened = Stage(chaos_server, processes, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def hierarchy(
    chaos_server: RedisServer, processes: Processes, _lasting: Lasting, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """The profile at work, shared by the tests of a module; whoever kills somebody starts him again."""
    from tests.faults.stage import Stage

    if _lasting.stage is None:
        _lasting.stage = Stage(chaos_server, processes, tmp_path_factory.mktemp("stage"))
        _lasting.stage.start()
    _lasting.stage.ready()
    yield _lasting.stage
    if not _lasting.stage.healthy:
        _lasting.close()


@pytest.fixture
def linked(hierarchy: Stage) -> Iterator[Stage]:
    """The same, and each process and the client have a link of their own to the server; afterwards all are whole."""
    from tests.faults.stage import CLIENT, PROFILE

    if not hierarchy.links:
        hierarchy.link(*PROFILE, CLIENT)
        hierarchy.ready()
    hierarchy.healthy = False  # until a verdict says so
    yield hierarchy
    for link in hierarchy.links.values():
        link.heal()


@pytest.fixture
def machines(
    chaos_server: RedisServer,
    processes: Processes,
    tmp_path: Path,
    command_line: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machines]:
    """Nobody at work yet, and nobody but a coordinator with the root secret."""
    from tests.faults.machines import Machines

    opened = Machines(chaos_server, processes, tmp_path, command_line, monkeypatch)
    yield opened
    opened.close()
