"""`agents events` and the timeline of a task, over a hierarchy of processes of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.installation import Installation
from tests.waiting import until

INTERRUPTED = 130


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    with Installation.opened() as installation:
        installation.up()
        yield installation


def listed(here: Installation, *arguments: str) -> list[dict[str, Any]]:
    done = here.agents("events", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def submitted(here: Installation, task_type: str, payload: Any) -> str:
    done = here.agents("submit", task_type, json.dumps(payload))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_killed_worker_is_told_once_and_its_attempt_stays_in_the_timeline(here: Installation) -> None:
    task_id = submitted(here, "hold", "killed")
    here.begun("killed")
    [started] = listed(here, "--task", task_id, "--type", "attempt_started")
    worker = started["data"]["worker"]

    os.kill(here.pids()[f"worker:{worker}"], signal.SIGKILL)
    until(lambda: here.begun("killed") == "2", "it runs again")
    here.let_go("killed")
    assert here.agents("tasks", "wait", task_id).returncode == 0

    shown = here.agents("tasks", "show", task_id).stdout
    told = [f"attempt 1 is with {worker}", f"attempt 1 was lost with {worker}", "attempt 2 is with", "has completed"]
    places = [shown.index(words) for words in told]
    assert places == sorted(places), shown
    assert [event["type"] for event in here.json("tasks", "show", task_id)["events"]] == [
        "task_submitted", "task_assigned", "attempt_started", "attempt_lost", "task_retrying", "attempt_started",
        "attempt_completed", "task_completed",
    ]  # fmt: skip
    everything = listed(here)
    assert len({event["id"] for event in everything}) == len(everything)
    lost = [event["data"] for event in everything if event["type"] == "agent_lost"]
    assert lost == [{"agent": f"worker:{worker}", "in_flight": 1}]


def test_a_tail_tells_what_happens_until_ctrl_c_and_can_be_taken_up_again(here: Installation) -> None:
    first = submitted(here, "echo", 1)
    with here.start("core.cli", "events", "tail", "--json", "--since", "1h", "--type", "task_completed") as tail:
        assert tail.stdout
        told = next(event for event in map(json.loads, tail.stdout) if event["task_id"] == first)
        tail.send_signal(signal.SIGINT)
    assert tail.returncode == INTERRUPTED

    second = submitted(here, "echo", 2)
    assert here.agents("tasks", "wait", second).returncode == 0
    after = [event["task_id"] for event in listed(here, "--after", told["id"], "--type", "task_completed")]
    assert after == [second]


def test_people_read_words_and_a_closed_pipe_ends_a_tail(here: Installation) -> None:
    task_id = submitted(here, "echo", 3)
    assert here.agents("tasks", "wait", task_id).returncode == 0

    said = here.agents("events", "list", "--root", task_id).stdout
    assert (
        f"{task_id}  echo was submitted by operator:cli" in said or f"{task_id}  echo was submitted by client" in said
    )
    assert "\x1b" not in said
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m core.cli events tail --since 1h | head -1"],
        cwd=here.directory, env=here.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    # Nothing happens any more, so it has to see that nobody reads.
    with here.start("core.cli", "events", "tail", "--since", "1h") as tail:
        assert tail.stdout
        assert tail.stdout.readline()
        tail.stdout.close()
        assert tail.wait(60) == 0
