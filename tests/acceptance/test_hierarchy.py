"""A hierarchy under its supervisor: real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.recording.comparison import compared, files_of
from tests.installation import Installation
from tests.process_memory import memory_of, root_only
from tests.waiting import until

SLOW_IMPORT = """
import time
from pathlib import Path
from worker import task

while not Path("import.go").exists():
    time.sleep(0.01)

@task("slow")
async def slow(payload):
    return payload
"""

COMPUTES = """
from worker import task

@task("compute")
def compute(payload):
    return 42
"""

LEAVES_A_PROCESS = """
import subprocess
from worker import task

@task("leave")
async def leave():
    return subprocess.Popen(["sleep", "1000"]).pid
"""


@pytest.fixture
def here() -> Iterator[Installation]:
    with Installation.opened() as installation:
        yield installation


def test_a_hierarchy_in_one_process_is_reached_by_others_and_hands_back_what_it_had(here: Installation) -> None:
    with here.start("core.cli", "up", "--local", "--import", "./tasks.py", "--workers", "3") as up:
        held = here.agents("submit", "hold", '"x"')  # it waits until there is a coordinator
        assert held.returncode == 0, held.stderr
        assert here.begun("x") == "1"
        assert here.agents("submit", "echo", "7", "--wait").stdout.strip() == "7"
        assert {*here.pids().values()} == {up.pid}
        assert len(here.pids()) == 5
        again = here.agents("up", "--local")
        assert (again.returncode, "is up already" in again.stderr) == (1, True)
        down = here.agents("down", "--timeout", "0")
        assert up.wait(timeout=60) == 75, up.stdout
        assert down.returncode == 75
        assert "1 open task(s) are kept" in down.stderr


def test_up_returns_when_every_agent_is_at_work_and_down_ends_them_all(here: Installation, tmp_path: Path) -> None:
    # When
    up = here.up("--distributors", "2", "--workers", "3", "--record", str(tmp_path / "recorded"))
    # Then
    assert "ready" in up.stderr
    assert "Next: agents submit" in up.stderr
    status = here.json("status")
    parents = {agent["agent_id"]: agent["parent_id"] for agent in status["agents"]}
    assert parents == {
        "coordinator-1": None,
        "distributor-1": "coordinator-1",
        "distributor-2": "coordinator-1",
        "worker-1": "distributor-1",
        "worker-2": "distributor-2",
        "worker-3": "distributor-1",
    }
    assert {agent["health"] for agent in status["agents"]} == {"active"}
    # When
    pids = here.pids()
    down = here.agents("down")
    # Then
    assert down.returncode == 0, down.stderr
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert here.agent_health() == {"coordinator-1": "gone"}
    # And each was recorded
    reports = [compared(path) for path in files_of(tmp_path / "recorded")]
    assert {report.agent.partition(":")[2] for report in reports} == {*parents}
    assert [report for report in reports if report.difference or report.problem] == []


@pytest.mark.parametrize("victim", ["worker:worker-1", "distributor:distributor-1", "coordinator:coordinator-1"])
def test_an_agent_that_is_killed_is_started_again_and_its_task_is_finished(here: Installation, victim: str) -> None:
    here.up("--workers", "1")
    task_id = here.agents("submit", "hold", '"a"').stdout.strip()
    here.begun("a")
    # When
    first = here.pids()[victim]
    os.kill(first, signal.SIGKILL)
    # Then
    until(lambda: here.pids()[victim] != first, "it runs again")
    here.let_go("a")
    waited = here.agents("tasks", "wait", task_id, "--timeout", "60")
    assert waited.returncode == 0, waited.stderr
    assert json.loads(waited.stdout)["attempt"] == (2 if victim.startswith("worker") else 1)


def test_what_is_not_finished_in_time_is_handed_back_and_finished_after_the_next_up(here: Installation) -> None:
    here.up()
    task_id = here.agents("submit", "hold", '"a"').stdout.strip()
    here.begun("a")
    # When
    down = here.agents("down", "--timeout", "0")
    # Then
    assert down.returncode == 75, down.stderr
    handed_back = [line for line in down.stderr.splitlines() if line.startswith("handed back")]
    assert re.fullmatch(r"handed back unfinished tasks: worker:worker-[12]\.", handed_back[0])
    assert "without draining" not in down.stderr
    assert "1 open task(s) are kept" in down.stderr
    # When
    assert "1 open task(s) go on" in here.up().stderr
    here.let_go("a")
    # Then
    waited = here.agents("tasks", "wait", task_id, "--timeout", "60")
    assert waited.returncode == 0, waited.stderr
    assert here.json("tasks", "show", task_id)["retry_count"] == 1  # what was handed back does not count


def test_ctrl_c_drains_from_below_and_what_runs_is_finished(here: Installation) -> None:
    foreground = here.start("core.cli", "up", "--import", "./tasks.py")
    read_until(foreground, "are ready")
    here.agents("submit", "hold", '"a"')
    here.begun("a")
    # When
    foreground.send_signal(signal.SIGINT)
    read_until(foreground, "draining")
    here.let_go("a")
    # Then
    said = read_to_end(foreground)
    assert foreground.returncode == 0, said
    gone = [line for line in said.splitlines() if "_left" in line]
    assert ["worker_left" in line for line in gone] == [True, True, False], said
    assert [task["status"] for task in here.json("tasks", "list")] == ["completed"]


def test_a_second_signal_ends_everything_at_once_and_loses_no_task(here: Installation) -> None:
    foreground = here.start("core.cli", "up", "--import", "./tasks.py")
    read_until(foreground, "are ready")
    task_id = here.agents("submit", "hold", '"a"').stdout.strip()
    here.begun("a")
    pids = here.pids()
    # When
    foreground.send_signal(signal.SIGTERM)
    read_until(foreground, "draining")
    foreground.send_signal(signal.SIGTERM)
    # Then
    said = read_to_end(foreground)
    assert foreground.returncode == 130, said
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    here.let_go("a")
    here.up()
    assert here.agents("tasks", "wait", task_id, "--timeout", "60").returncode == 0


def test_agents_die_with_a_supervisor_that_is_killed_and_a_new_one_goes_on(here: Installation) -> None:
    here.up()
    task_id = here.agents("submit", "hold", '"a"').stdout.strip()
    here.begun("a")
    pids = here.pids()
    # When
    os.kill(here.record()["pid"], signal.SIGKILL)
    # Then
    until(lambda: not any(map(psutil.pid_exists, pids.values())), "no agent outlives its supervisor")
    here.let_go("a")
    here.up()
    assert here.agents("tasks", "wait", task_id, "--timeout", "60").returncode == 0


def test_a_detached_hierarchy_goes_on_when_who_started_it_is_gone_before_it_is_ready(here: Installation) -> None:
    (here.directory / "slow.py").write_text(SLOW_IMPORT)
    starter = here.start("core.cli", "up", "--detach", "--import", "./slow.py")
    until(lambda: list((here.directory / "data" / "hierarchies").glob("*.json")), "the supervisor is at work")
    # When
    starter.kill()
    starter.communicate()
    here.let_go("import")
    until(lambda: here.record()["ready"], "all are ready")
    # Then
    assert here.agents("submit", "slow", "1", "--wait").stdout.strip() == "1"


@root_only
def test_what_an_agent_that_was_killed_has_left_behind_costs_its_supervisor_nothing(here: Installation) -> None:
    (here.directory / "leaving.py").write_text(LEAVES_A_PROCESS)
    foreground = here.start("core.cli", "up", "--workers", "1", "--import", "./leaving.py")
    read_until(foreground, "are ready")
    left = psutil.Process(json.loads(here.agents("submit", "leave", "null", "--wait").stdout))
    supervisor = psutil.Process(here.record()["pid"])
    before = supervisor.num_fds()
    first = here.pids()["worker:worker-1"]
    # When
    os.kill(first, signal.SIGKILL)
    # Then
    try:
        until(lambda: here.pids()["worker:worker-1"] != first, "it runs again")
        assert left.is_running()
        assert supervisor.num_fds() == before
    finally:
        left.kill()
    foreground.send_signal(signal.SIGINT)
    read_to_end(foreground)


@pytest.mark.parametrize("detach", [["--detach"], []])
def test_up_says_why_it_cannot_start_and_leaves_nothing_behind(here: Installation, detach: list[str]) -> None:
    # When
    up = here.agents("up", "--import", "no_such_module", *detach)
    # Then
    assert up.returncode == 78, up.stderr
    assert "there is no module 'no_such_module'" in up.stderr
    last = [line for line in up.stderr.splitlines() if "Its logs are in" not in line][-1]
    assert "there is no module 'no_such_module'" in last
    assert not any(map(psutil.pid_exists, here.pids().values()))
    assert here.agents("down").returncode == 0


def test_up_whose_reader_has_gone_drains_as_if_the_terminal_had_been_closed(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(here.environment, "DRAIN_TIMEOUT", "1")  # others may have left something that goes on
    foreground = here.start("core.cli", "up", "--import", "./tasks.py")
    until(lambda: here.agent_health().get("worker-2") == "active", "it is up")
    assert foreground.stdout
    foreground.stdout.close()

    psutil.Process(here.pids()["worker:worker-1"]).kill()

    assert foreground.wait(60) in (0, 75)
    assert not any(map(psutil.pid_exists, here.pids().values()))


def test_a_second_up_is_refused_while_the_first_one_runs(here: Installation) -> None:
    here.up()
    pids = here.pids()
    # When
    second = here.agents("up", "--detach")
    # Then
    assert second.returncode == 1
    assert "is up already" in second.stderr
    assert here.pids() == pids


def test_down_leaves_alone_what_it_did_not_start(here: Installation) -> None:
    by_hand = here.start("coordinator")
    until(lambda: here.agent_health().get("coordinator-1") == "active", "the coordinator is at work")
    # When
    down = here.agents("down")
    # Then
    assert down.returncode == 0
    assert "nothing to end" in down.stderr
    assert by_hand.poll() is None
    by_hand.terminate()
    by_hand.communicate(timeout=20)


def test_a_distributor_that_gets_no_time_to_drain_ends_all_the_same(here: Installation) -> None:
    by_hand = here.start("distributor", "--drain-timeout", "0")
    until(lambda: here.agent_health().get("distributor-1") == "unheard", "the distributor is at work")
    # When
    by_hand.terminate()
    # Then
    said = read_to_end(by_hand)
    assert by_hand.returncode in (0, 75), said


@root_only
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory by way of /proc")
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_user_code_has_no_copy_of_a_secret_in_its_memory(here: Installation, place: str) -> None:
    """The supervisor forks the worker, that forks its forkserver, that forks the child: all that the first has read
    would be in the memory of the last."""
    secret = "what-nobody-but-agents-may-know-27182818"
    if place == ".env":
        (here.directory / ".env").write_text(f"A2A_TOKEN_SECRET={secret}\n")
    else:
        here.environment["A2A_TOKEN_SECRET"] = secret
    (here.directory / "tasks.py").write_text(COMPUTES)
    here.up("--workers", "1")
    assert here.agents("submit", "compute", "null", "--wait").returncode == 0

    worker = psutil.Process(here.pids()["worker:worker-1"])
    forkserver, child = worker.children(recursive=True)

    assert secret.encode() in memory_of(worker.pid)  # it would be found
    assert secret.encode() not in memory_of(forkserver.pid)
    assert secret.encode() not in memory_of(child.pid)


def test_each_distributor_needs_a_worker(here: Installation) -> None:
    up = here.agents("up", "--distributors", "3", "--workers", "2")
    assert up.returncode == 78
    assert "2 workers cannot serve 3 distributors" in up.stderr


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Reads what a process says up to the line with `words`."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}:\n{''.join(said)}")


def read_to_end(process: subprocess.Popen[str]) -> str:
    """What it says until it ends; communicate() would miss what `read_until` has read ahead."""
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    process.wait(timeout=20)
    return said
