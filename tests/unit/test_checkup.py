"""What the doctor reads out of a server's INFO, and of files with secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config.sources import load
from core.operations.checkup import check_info, check_secret_files, exit_code_of
from core.operations.finding import Finding

GOOD = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "used_memory": "10",
    "maxmemory": "0",
}


def test_a_good_server_passes_every_check() -> None:
    assert {finding.state for finding in check_info(GOOD)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "check", "state"),
    [
        ({"redis_version": "6.0.16"}, "version", "fail"),
        ({"redis_version": "6.2.0"}, "version", "ok"),
        ({"redis_version": "6.0.0", "valkey_version": "8.1.0"}, "version", "ok"),
        ({"maxmemory_policy": "volatile-lru"}, "eviction", "fail"),
        ({"cluster_enabled": "1"}, "cluster", "fail"),
        ({"cluster_enabled": "0"}, "cluster", None),
        ({"maxmemory": "12"}, "memory", "warn"),
        ({"maxmemory": "9"}, "memory", "fail"),
        ({"maxmemory": "12", "mem_not_counted_for_evict": "1"}, "memory", None),
        ({"aof_enabled": "0"}, "persistence", "warn"),
        ({"aof_last_write_status": "err"}, "persistence", "fail"),
    ],
)
def test_what_endangers_tasks_is_found_with_its_cure(changed: dict[str, str], check: str, state: str | None) -> None:
    found = [finding for finding in check_info(GOOD | changed) if finding.check == check]
    assert [finding.state for finding in found] == ([state] if state else [])
    assert all(bool(finding.cure) == (state != "ok") for finding in found)


def test_a_server_that_only_writes_snapshots_is_told_from_one_that_writes_nothing() -> None:
    said = [
        finding.what
        for snapshots in (True, False)
        for finding in check_info(GOOD | {"aof_enabled": "0"}, snapshots)
        if finding.check == "persistence"
    ]
    assert ["after the last one" in said[0], "every task is lost" in said[1]] == [True, True]


@pytest.mark.parametrize(
    ("mode", "found"),
    [(0o600, False), (0o400, False), (0o440, False), (0o640, False), (0o644, True), (0o444, True), (0o660, True)],
)
def test_a_secret_in_a_file_that_is_open_to_others_is_found_with_its_cure(
    mode: int, found: bool, tmp_path: Path
) -> None:
    """A group may read it: so orchestrators mount secrets for a process that is not root."""
    path = tmp_path / "a secret"
    path.write_text("x" * 32)
    path.chmod(mode)

    findings = list(check_secret_files(load({}, {"A2A_TOKEN_SECRET_FILE": f"{path}"})))

    assert [finding.state for finding in findings] == ["warn"] * found
    assert all(f"chmod 600 '{path}'" in finding.cure for finding in findings)


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    fine, warning = Finding("a", "ok", ""), Finding("b", "warn", "", "c")
    assert exit_code_of([fine, warning]) == 0
    assert exit_code_of([warning, Finding("c", "fail", "", exit_code=69), Finding("d", "fail", "", exit_code=78)]) == 69
