"""What the doctor reads out of a server's INFO."""

from __future__ import annotations

import pytest

from core.runtime.checkup import Finding, check_info, worst

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
        ({"maxmemory": "12"}, "memory", "warn"),
        ({"aof_enabled": "0"}, "persistence", "warn"),
        ({"aof_last_write_status": "err"}, "persistence", "fail"),
    ],
)
def test_what_endangers_tasks_is_found_with_its_cure(changed: dict[str, str], check: str, state: str) -> None:
    [found] = [finding for finding in check_info(GOOD | changed) if finding.check == check]
    assert found.state == state
    assert bool(found.cure) == (state != "ok")


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    fine, warning = Finding("a", "ok", ""), Finding("b", "warn", "", "c")
    assert worst([fine, warning]) == 0
    assert worst([warning, Finding("c", "fail", "", exit_code=69), Finding("d", "fail", "", exit_code=78)]) == 69
