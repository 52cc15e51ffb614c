"""Many graphs in one process: each is its own run, and none pays for another."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from core.agent_run import RunOptions
from core.tasks import Task
from tests.executor_bench import INTEGRATION, Bench, error_of
from tests.waiting import until_async
from worker.hosts.main import NICENESS

AGENTS = str(INTEGRATION / "host_user_graphs.py")


@pytest.fixture
async def host() -> AsyncIterator[Bench]:
    """One host with room for many, and one function at a time."""
    bench = Bench(concurrency=1, agent_concurrency=40, hosts=1, code=AGENTS)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


async def waiting(host: Bench, file: Path, task_type: str = "waits") -> tuple[Task, int]:
    """A run that goes on until `file` exists, and its process."""
    task = host.submit(task_type, {"file": str(file)})
    return task, await pid_of(task, file)


async def pid_of(task: Task, file: Path) -> int:
    begun = Path(f"{file}.{task.task_id}")
    return int(await until_async(lambda: begun.exists() and begun.read_text(), f"{task.task_id} waits"))


async def test_runs_share_a_process_and_nothing_else(host: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = [host.submit("meets", {"count": 30}) for _ in range(30)]
    ended = [await host.end_of(task) for task in tasks]

    ids = [task.task_id for task in tasks]
    assert {finished.result["pid"] for finished in ended} != {os.getpid()}
    assert len({finished.result["pid"] for finished in ended}) == 1
    assert [(finished.result["task_id"], finished.result["mine"]) for finished in ended] == [(i, i) for i in ids]
    assert [finished.output for finished in ended] == [f"begins {i}\nends {i}\n" for i in ids]
    shown = capfd.readouterr().err
    assert all(f"[{i}] begins {i}\n" in shown and f"[{i}] ends {i}\n" in shown for i in ids)


async def test_what_runs_do_has_a_lower_priority_than_their_worker(host: Bench) -> None:
    ended = await host.run("meets", {"count": 1})

    assert ended.result is not None
    assert psutil.Process(ended.result["pid"]).nice() == min(19, psutil.Process().nice() + NICENESS)


async def test_blocking_nodes_of_many_runs_have_a_thread_each(host: Bench) -> None:
    tasks = [host.submit("meets_in_threads", {"count": 40}) for _ in range(40)]

    assert {(await host.end_of(task)).status for task in tasks} == {"completed"}


async def test_a_run_may_tell_more_at_once_than_a_message_holds(host: Bench) -> None:
    ended = await host.run("tells_much", {}, run=RunOptions(stream=["custom"]))
    assert ended.status == "completed", ended.error


async def test_runs_take_no_slot_of_a_function_and_isolated_ones_do(host: Bench, tmp_path: Path) -> None:
    shared, a = await waiting(host, tmp_path / "f")
    isolated, b = await waiting(host, tmp_path / "f", "waits_isolated")
    limited = host.submit("waits_with_memory", {"file": str(tmp_path / "f")})

    assert (a != b, host.executor.queued) == (True, 1)
    (tmp_path / "f").touch()
    ended = [await host.end_of(task) for task in (shared, isolated, limited)]
    assert len({finished.result["pid"] for finished in ended}) >= 2
    assert {finished.status for finished in ended} == {"completed"}


async def test_a_run_that_does_not_stop_loses_its_process_and_the_others_go_on_in_another(
    host: Bench, tmp_path: Path
) -> None:
    innocent, before = await waiting(host, tmp_path / "f")

    assert error_of(await host.run("never_ends", {})).type == "timeout"
    begun = Path(f"{tmp_path}/f.{innocent.task_id}")
    await until_async(lambda: begun.read_text() not in ("", str(before)), "it goes on elsewhere")
    (tmp_path / "f").touch()
    ended = await host.end_of(innocent)

    assert (ended.status, ended.result["task_id"]) == ("completed", f"{innocent.task_id}#1")
    assert ended.result["pid"] != before


async def test_of_the_runs_of_a_process_that_ended_only_the_guilty_one_fails(host: Bench, tmp_path: Path) -> None:
    innocent, _ = await waiting(host, tmp_path / "f")
    guilty = host.submit("ends_its_process", {"file": str(tmp_path / "f")})
    await host.begun(guilty)
    (tmp_path / "f.go").touch()

    error = error_of(await host.end_of(guilty))
    assert (error.type, error.message) == ("process_died", "its process exited with status 7")
    (tmp_path / "f").touch()
    assert (await host.end_of(innocent)).status == "completed"


async def test_a_node_that_raises_system_exit_fails_its_own_run(host: Bench, tmp_path: Path) -> None:
    innocent, pid = await waiting(host, tmp_path / "f")

    assert error_of(await host.run("exits", {})).type == "SystemExit"
    (tmp_path / "f").touch()
    assert (await host.end_of(innocent)).result["pid"] == pid


async def test_an_error_that_cannot_be_told_and_a_flood_of_output_cost_no_other_run(
    host: Bench, tmp_path: Path
) -> None:
    innocent, pid = await waiting(host, tmp_path / "f")

    error = error_of(await host.run("fails_untold", {}))
    assert (error.type, error.message) == ("Untold", "its message cannot be shown: IndexError")
    assert (await host.run("prints_much", {})).result["pid"] == pid
    (tmp_path / "f").touch()
    assert (await host.end_of(innocent)).result["pid"] == pid


async def test_runs_that_begin_at_once_have_the_memory_limit_too_and_one_by_itself_its_own(tmp_path: Path) -> None:
    """Beside the limit there are the stacks of the threads that a process may have."""
    bench = Bench(agent_concurrency=2, hosts=1, code=AGENTS, child_memory_mb=256)
    await bench.executor.start()
    tasks = [bench.submit(name, {"file": str(tmp_path / "f")}) for name in ("waits", "allocates")]

    assert error_of(await bench.end_of(tasks[1])).type == "memory"
    (tmp_path / "f").touch()
    assert (await bench.end_of(tasks[0])).status == "completed"
    assert error_of(await bench.run("allocates_isolated", {})).type == "memory"
    await bench.executor.close()


async def test_a_thread_does_not_outlive_the_run_that_has_failed_beside_it(host: Bench, tmp_path: Path) -> None:
    innocent, pid = await waiting(host, tmp_path / "f")

    error = error_of(await host.run("leaves_a_thread", {}))
    assert (error.type, error.message, error.retryable) == ("ValueError", "at once", True)
    await until_async(lambda: not psutil.pid_exists(pid), "its process has ended")
    (tmp_path / "f").touch()
    assert (await host.end_of(innocent)).result["pid"] != pid


async def test_what_is_wrong_with_the_graph_itself_is_not_tried_again(host: Bench) -> None:
    for task_type, payload, kind in (
        ("loops", {}, "GraphRecursionError"),
        ("updates_twice", {"number": 1}, "InvalidUpdateError"),
        ("breaks_its_schema", {"number": 1}, "ValidationError"),
        ("breaks_its_schema", {"number": "one"}, "ValidationError"),
    ):
        error = error_of(await host.run(task_type, payload))
        assert (error.type, error.retryable) == (kind, False)


async def test_a_run_that_lacks_descriptors_because_of_others_has_enough_alone(host: Bench) -> None:
    tasks = [host.submit("opens", {"files": 600}) for _ in range(3)]

    assert [(await host.end_of(task)).status for task in tasks] == ["completed"] * 3
    assert error_of(await host.run("opens", {"files": 5000})).type == "OSError"


async def test_a_run_is_returned_between_two_nodes_when_its_worker_drains(host: Bench, tmp_path: Path) -> None:
    task, _ = await waiting(host, tmp_path / "f", "two_nodes")

    assert host.executor.drain() == []
    (tmp_path / "f").touch()
    assert (await host.end_of(task)).status == "returned"
