"""The root secret of a machine: made once, private, and only where nobody else takes part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.config.settings import PLACEHOLDER_SECRET, A2AConfig, RedisConfig
from core.errors import ConfigError
from core.machine.local_secrets import resolve_secret

UNSET = A2AConfig(agent_id="a")


def test_parallel_callers_get_the_one_secret_of_this_machine_which_nobody_else_can_read(tmp_path: Path) -> None:
    redis = RedisConfig(data_dir=tmp_path)
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: resolve_secret(UNSET, redis), range(64)))

    assert len(found) == 1
    assert len(found.pop()) >= 32
    assert (tmp_path / "a2a-secret").stat().st_mode & 0o077 == 0


def test_the_examples_secret_counts_as_none_and_one_that_is_set_is_used_everywhere(tmp_path: Path) -> None:
    redis = RedisConfig(data_dir=tmp_path)
    elsewhere = RedisConfig(host="redis.example")

    assert resolve_secret(A2AConfig(agent_id="a", token_secret=PLACEHOLDER_SECRET), redis) == resolve_secret(
        UNSET, redis
    )
    assert resolve_secret(A2AConfig(agent_id="a", token_secret="s" * 16), elsewhere) == b"s" * 16


def test_without_a_secret_agents_on_several_machines_cannot_meet() -> None:
    with pytest.raises(ConfigError, match="A2A_TOKEN_SECRET"):
        resolve_secret(UNSET, RedisConfig(host="redis.example"))


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("too short", 0o600), ("a secret, long enough", 0o644)])
def test_a_secret_file_that_is_empty_short_or_readable_by_others_is_refused(
    tmp_path: Path, text: str, mode: int
) -> None:
    (tmp_path / "a2a-secret").write_text(text)
    (tmp_path / "a2a-secret").chmod(mode)

    with pytest.raises(ConfigError, match="a2a-secret"):
        resolve_secret(UNSET, RedisConfig(data_dir=tmp_path))
