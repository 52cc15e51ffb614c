"""There is no room for what the server appends: line 41 of the matrix."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from core.chaos.processes import Processes
from tests.faults.outages import AGENTS, all_act, first_commit_s, leases, refusal, under_load
from tests.faults.stage import LEASE_S, Stage
from tests.redis_server import RedisServer
from tests.waiting import until

#: Of the file system. The matrix asks for 3 MiB; what is more the test fills itself, when it is time.
DISK_BYTES = 32 << 20
#: Two cores for a dozen processes.
SLACK_S = 1.0


class SmallDisk:
    """A file system of its own for a directory that is empty."""

    def __init__(self, directory: Path) -> None:
        self._filler = directory / "filler"
        self._directory = directory
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
        mounted = subprocess.run(mounting, capture_output=True, text=True)
        if mounted.returncode:
            directory.rmdir()
            pytest.skip(f"a file system cannot be mounted here, only root may: {mounted.stderr.strip()}")

    def fill(self) -> None:
        """Leaves nothing."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))

    def free(self) -> None:
        self._filler.unlink()

    def close(self) -> None:
        subprocess.run(["umount", str(self._directory)], check=True)


@pytest.fixture
def disk_and_stage(
    chaos_server: RedisServer, processes: Processes, tmp_path: Path, fsync: Literal["everysec", "always"]
) -> Iterator[tuple[SmallDisk, Stage]]:
    server = RedisServer(chaos_server.binary, append_only=True, fsync=fsync)
    disk = SmallDisk(server.directory)
    try:
        server.start()
        stage = Stage(server, processes, tmp_path)
        stage.start()
        all_act(stage)
        yield disk, stage
        stage.close()
    finally:
        server.kill()
        disk.close()
        server.directory.rmdir()


@pytest.mark.matrix(41)
@pytest.mark.parametrize("fsync", ["everysec"])
def test_while_the_disk_is_full_agents_keep_what_they_decided_and_go_on_when_there_is_room(
    disk_and_stage: tuple[SmallDisk, Stage],
) -> None:
    disk, stage = disk_and_stage
    with under_load(stage) as load:
        load.progress()
        disk.fill()
        until(lambda: refusal(stage.server) == "MISCONF", "the server writes no more")
        until(lambda: len(told_of_refusal(stage)) == len(AGENTS), "every agent has noticed")
        until(lambda: not any(leases(stage)), "no lease is left")
        time.sleep(LEASE_S)  # part of the fault: standbys reach for the leases, and are refused
        disk.free()
        until(lambda: not refusal(stage.server), "the server writes again")
        took_s = first_commit_s(stage)
        load.turnover()
        load.progress()

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    assert took_s <= 1.0 + SLACK_S
    assert [name for name in stage.processes.names() if not stage.processes.alive(name)] == []
    assert set(told_of_refusal(stage).values()) == {1}


@pytest.mark.matrix(41)
@pytest.mark.parametrize("fsync", ["always"])
def test_a_server_that_ends_because_its_disk_is_full_comes_back_to_agents_that_are_all_there(
    disk_and_stage: tuple[SmallDisk, Stage],
) -> None:
    disk, stage = disk_and_stage
    with under_load(stage) as load:
        load.progress()
        disk.fill()
        until(lambda: has_ended(stage.server), "the server has ended")
        disk.free()
        stage.server.kill()
        stage.server.start()
        took_s = first_commit_s(stage)
        load.turnover()
        load.progress()

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    assert took_s <= 1.0 + SLACK_S
    assert [name for name in stage.processes.names() if not stage.processes.alive(name)] == []


def has_ended(server: RedisServer) -> bool:
    try:
        server.ask("PING")
    except OSError:
        return True
    return False


def told_of_refusal(stage: Stage) -> dict[str, int]:
    """How often those processes which the server has refused to write for have said so."""
    said = {name: stage.processes.log(name).count('"writes_refused"') for name in stage.processes.names()}
    return {name: times for name, times in said.items() if times}
