"""`agents limits` on a server: limits of models, as operators see and set them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.errors import BadTask, UserError
from core.model_limits import LimitedCall
from core.redis_backend.keys import CoordinatorKeys
from core.redis_client import Wire
from worker.hosts.fleet_limits import FleetLimits

if TYPE_CHECKING:
    from core.config.settings import RedisConfig
    from tests.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _here(redis_server: RedisServer, redis_config: RedisConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**redis_server.environment, "COORDINATOR_ID": "k"}.items():
        monkeypatch.setenv(name, value)


def agents(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["limits", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def told(name: str) -> Any:
    return json.loads(agents("show", name, "--json"))


async def called(redis_config: RedisConfig, name: str, tokens: int) -> None:
    """A worker lets a call through."""
    limits = FleetLimits(lambda: Wire(redis_config), CoordinatorKeys("k"), "w", lambda *_: lambda: None)
    assert await limits.take(LimitedCall("call", "task", (name,), tokens)) == name
    await limits.close()


def test_a_limit_is_set_shown_frozen_and_removed(redis_config: RedisConfig) -> None:
    assert "agents limits set NAME" in agents("list")
    agents("set", "openai:gpt-5", "--requests-per-minute", "1", "--tokens-per-minute", "20000")
    agents("set", "other", "--tokens-per-minute", "10")
    assert (told("openai:gpt-5")["requests_left"], told("openai:gpt-5")["tokens_left"]) == (1, 2000)

    asyncio.run(called(redis_config, "openai:gpt-5", 5000))
    shown = told("openai:gpt-5")
    assert (shown["requests_left"], shown["under_way"], shown["waiting"]) == (0, 1, 0)
    assert shown["tokens_left"] < -1000  # more than the bucket holds: those that follow wait for it
    listed = agents("list", "--wide").splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [["openai:gpt-5", "1", "20000"], ["other", "10", "1"]]

    agents("freeze", "other", "3600")
    assert told("other")["frozen_ms"] > 3_500_000
    agents("freeze", "other", "0")
    assert told("other")["frozen_ms"] == 0
    agents("remove", "other")
    assert "other" not in agents("list")
    assert "first in line" in agents("show", "openai:gpt-5")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("set", "openai"), BadTask, "give requests_per_minute, tokens_per_minute or both"),
        (("set", "open ai", "--tokens-per-minute", "1"), BadTask, "such as 'openai', 'gpt-5'"),
        (("set", "openai", "--tokens-per-minute", "0"), BadTask, "freeze the limit"),
        (("freeze", "openai", "1"), UserError, "there is no limit 'openai'; `agents limits set openai` makes it"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(
    arguments: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        agents(*arguments)
