"""The unit of systemd that a gateway is run by."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from core.cli.app import app
from core.config.sources import load
from core.errors import ConfigError

UNIT = Path(__file__).parents[2] / "deploy" / "agents-gateway.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    return read(UNIT.read_text())["Service"]


def read(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    lines: list[str] = []
    for number, line in enumerate(text.splitlines()):  # each Environment is a line of its own
        lines.append(line.replace("Environment=", f"Environment.{number}=", 1))
    unit.read_string("\n".join(lines))
    return unit


def test_it_runs_a_command_that_there_is_with_settings_that_there_are(
    service: configparser.SectionProxy, tmp_path: Path
) -> None:
    program, *command = shlex.split(service["ExecStart"])
    assert (Path(program).name, command) == ("agents", ["gateway"])
    assert command[0] in {each.callback.__name__ for each in app.registered_commands if each.callback}
    said = [part for name, value in service.items() if name.startswith("Environment.") for part in value.split()]
    credentials = {name for name, _, _ in (part.partition(":") for part in service["LoadCredential"].split())}
    environment = dict(part.split("=", 1) for part in said)
    given = {value.removeprefix("%d/") for value in environment.values() if value.startswith("%d/")}
    assert given == credentials
    for name in credentials:
        (tmp_path / name).write_text("ada:viewer:" + "0" * 64 if name == "gateway-keys" else "a" * 8 + ":" + "b" * 64)
        (tmp_path / name).chmod(0o600)
    environment = {name: value.replace("%d", str(tmp_path)) for name, value in environment.items()}
    settings = load({}, environ=environment, dotenv_path=tmp_path / ".env")
    assert (settings.gateway.host, settings.redis.mode) == ("0.0.0.0", "external")


def test_it_is_not_started_again_with_a_setting_that_is_wrong(service: configparser.SectionProxy) -> None:
    assert int(service["RestartPreventExitStatus"]) == ConfigError.exit_code
