"""Scenarios of users: what they find, how a failure is told, and that it comes again."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.cli.app import app
from core.errors import ConfigError
from core.rehearsal import Rehearsal, rehearse, scenario
from core.rehearsal.own_handlers import user_code
from core.rehearsal.run import run_plan
from core.rehearsal.scenario_file import scenario_in
from core.rehearsal.shrinking import shrunk
from worker import Context
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers

ORDERS = """
from core.rehearsal import Rehearsal, scenario
from worker import Context, task


@task("rehearsed-charge", retries=9)
async def charge(payload: dict, ctx: Context) -> int:
    return payload["cents"]


@scenario(distributors=1, workers=2)
def orders(rehearsal: Rehearsal):
    for number in range(rehearsal.chance.randint(1, 9)):
        rehearsal.submit("rehearsed-charge", {"cents": number})
    yield
    for task_id, ended in rehearsal.ended.items():
        assert ended.result == rehearsal.given[task_id].payload["cents"], f"{task_id} ended so: {ended.status}"


@scenario(distributors=1, workers=2)
def false(rehearsal: Rehearsal):
    for number in range(rehearsal.chance.randint(1, 9)):
        rehearsal.submit("rehearsed-charge", {"cents": number})
    yield
    assert "t4" not in rehearsal.ended, f"t4 ended so: {rehearsal.ended['t4'].status}"
"""


def slow() -> Handlers:
    async def wait(ctx: Context) -> None:
        await asyncio.sleep(2)

    handlers = Handlers()
    handlers.add(
        Handler(
            task_type="slow", function=wait, kind="async", timeout_s=60.0, max_attempts=9, memory_mb=None,
            wants_payload=False, wants_context=True, payload_default=NO_DEFAULT, payload_model=None,
            capabilities=(), module=__name__, qualname="slow", source=__file__,
        )
    )  # fmt: skip
    return handlers


@pytest.fixture
def agents() -> Iterator[Callable[..., Any]]:
    """Runs `agents rehearse` in this process."""
    yield lambda *arguments: CliRunner().invoke(app, ["rehearse", *map(str, arguments)])
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenarios") / "orders.py"
    path.write_text(ORDERS)
    return path


@pytest.fixture(scope="module")
def false(file: Path) -> str:
    """A scenario that does not hold as soon as there are four tasks."""
    return f"{file}:false"


def test_one_seed_tells_who_told_whom_and_draws_it(agents: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    told = agents(str(file), "--seed", "1", "--svg", str(tmp_path / "run.svg"))

    assert told.exit_code == 0, told.output
    assert "every invariant held" in told.stdout
    assert "coordinator-1 -> distributor-1" in told.stdout
    assert ElementTree.parse(tmp_path / "run.svg").getroot().tag.endswith("svg")


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    def told(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "core.cli", "rehearse", "--seed", "3", "--json"]
        return subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, capture_output=True
        ).stdout  # fmt: skip

    first, second = told("1"), told("2")
    assert json.loads(first)["trace"]
    assert first == second


def test_exploring_names_the_seeds_that_failed_and_how_to_see_the_first_again(
    agents: Callable[..., Any], false: str
) -> None:
    explored = agents(false, "--explore", "6")

    assert explored.exit_code == 1, explored.output
    assert "distinct decisions" in explored.stderr
    again = explored.stdout.splitlines()[-1].partition("agents rehearse ")[2].split()
    shown = agents(*again, "--json")
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)
    assert "the scenario says: t4 ended so" in found["problems"][0]
    submitted = [moment["what"] for moment in found["trace"] if moment["what"].startswith("submit_task")]
    assert submitted == ["submit_task t4"]
    assert not any(moment["fault"] for moment in found["trace"]), "no fault is needed"


def test_a_failure_raises_with_its_trace_and_is_the_same_when_it_comes_again(false: str) -> None:
    with pytest.raises(AssertionError, match="submits t4") as first:
        rehearse(scenario_in(false))
    with pytest.raises(AssertionError) as second:
        rehearse(scenario_in(false))

    assert str(first.value) == str(second.value)


def test_what_a_failure_does_not_need_is_left_out() -> None:
    @scenario(distributors=1, workers=1, faults=["kill", "partition"], handlers=lambda _: slow())
    def unlucky(rehearsal: Rehearsal):  # type: ignore[no-untyped-def]
        for _ in range(8):
            rehearsal.submit("slow")
        yield
        assert all(ended.retry_count <= 1 for ended in rehearsal.ended.values()), "a task ran twice"

    failed = next(outcome for seed in range(100) if (outcome := run_plan(unlucky, unlucky.plan(seed))).problems)

    shortest = shrunk(unlucky, failed)

    assert shortest.problems
    assert len(shortest.plan.happenings) <= 3
    assert len(shortest.strikes) <= 1


def test_hundreds_of_tasks_that_come_at_once_are_no_fault() -> None:
    @scenario(faults=[], handlers=lambda world: user_code(world.began, world.heard))
    def many(rehearsal: Rehearsal) -> None:
        rehearsal.submit_together([rehearsal.task("noop", {"run_s": 0.0}, 1.0) for _ in range(400)], 1.0)

    rehearse(many, seeds=[1])


def test_a_kind_of_fault_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="earthquake"):
        scenario(faults=["earthquake"])


@pytest.mark.parametrize("text", ["", "x = 1"])
def test_a_file_without_a_scenario_is_refused_with_the_cure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nothing.py"
    path.write_text(text)

    with pytest.raises(ConfigError, match="mark a function with @scenario"):
        scenario_in(str(path))
