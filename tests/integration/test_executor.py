"""User code in a worker: what it gets, what becomes of what it returns, and that nothing it does harms the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.errors import ConfigError
from core.tasks import Priority, Task, TaskError, TaskStatus, utc_now
from tests.waiting import until, until_async
from worker.child_pool import RUNS_PER_CHILD
from worker.context import ChildOutcome, Progress
from worker.executor import Executor, Finished
from worker.handlers import HANDLERS, Handlers, load_modules

USER_CODE = str(Path(__file__).parent / "executor_user_code.py")
USER_GRAPHS = str(Path(__file__).parent / "executor_user_graphs.py")
ROOT = Path(__file__).parents[2]

MIB = 1024 * 1024


class Bench:
    """An executor, and what came out of it."""

    def __init__(self, concurrency: int = 2, handlers: Handlers | None = None, code: str = USER_CODE) -> None:
        self.finished: list[Finished] = []
        self.progress: list[Progress] = []
        self.executor = Executor(
            handlers or user_handlers(code),
            concurrency=concurrency,
            on_finished=self.finished.append,
            on_progress=self.progress.append,
            modules=[code],
            fetch_inputs=self.fetch,
        )
        self._ids = 0

    async def fetch(self, task: Task) -> list[ChildOutcome]:
        await asyncio.sleep(0)
        status = {"ok": TaskStatus.COMPLETED, "bad": TaskStatus.FAILED}
        error = TaskError(type="ValueError", message="no good", attempt=1)
        return [ChildOutcome(i, "echo", status[d], i, error if d == "bad" else None) for i, d in task.inputs]

    def submit(self, task_type: str, payload: Any = None, **fields: Any) -> Task:
        self._ids += 1
        task = Task(**{"task_id": f"t{self._ids}", "task_type": task_type, "payload": payload, "attempt": 1, **fields})
        self.executor.submit(task)
        return task

    async def run(self, task_type: str, payload: Any = None, **fields: Any) -> Finished:
        return await self.end_of(self.submit(task_type, payload, **fields))

    async def end_of(self, task: Task) -> Finished:
        def ended() -> Finished | None:
            mine = (one for one in self.finished if (one.task_id, one.attempt) == (task.task_id, task.attempt))
            return next(mine, None)

        finished = await until_async(ended, f"{task.task_type} ends")
        assert finished is not None
        return finished

    async def begun(self, task: Task) -> None:
        await until_async(lambda: task.task_id in self.executor.running, f"{task.task_type} begins")


def user_handlers(code: str = USER_CODE) -> Handlers:
    """Those of that user code only: other tests may have registered others."""
    load_modules([code])
    handlers = Handlers()
    for handler in HANDLERS:
        if handler.module == Path(code).stem:
            handlers.add(handler)
    return handlers


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.executor.start()
    yield bench
    await bench.executor.close()


@pytest.fixture
async def graphs() -> AsyncIterator[Bench]:
    bench = Bench(code=USER_GRAPHS)
    await bench.executor.start()
    yield bench
    await bench.executor.close()


def error_of(finished: Finished) -> TaskError:
    assert finished.status == "failed"
    assert finished.error is not None
    return finished.error


async def written(path: Path) -> int:
    """The process id that a handler writes to ``path`` when it begins."""
    text: str = await until_async(lambda: path.read_text() if path.exists() else "", "the handler runs")
    return int(text)


def children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


# results


@pytest.mark.parametrize("task_type", ["count", "count_async"])
async def test_a_payload_arrives_as_its_model_and_a_dataclass_leaves_as_json(bench: Bench, task_type: str) -> None:
    finished = await bench.run(task_type, {"text": "three small words"})

    assert (finished.status, finished.result) == ("completed", {"words": 3})
    assert finished.run_ms > 0


@pytest.mark.parametrize("task_type", ["count", "count_async"])
async def test_a_payload_that_breaks_its_model_fails_at_once_naming_the_field(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type, {"txt": "a"}))

    assert error.type == "BadTask"
    assert "'text'" in error.message
    assert not error.retryable


async def test_plain_functions_run_outside_the_worker_in_a_process_used_again(bench: Bench) -> None:
    first, second = await bench.run("pid"), await bench.run("pid")

    assert first.result == second.result != os.getpid()


async def test_a_process_is_replaced_after_its_thousandth_run() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    for _ in range(RUNS_PER_CHILD + 1):
        bench.submit("pid")
    await until_async(lambda: len(bench.finished) == RUNS_PER_CHILD + 1, "all end")
    await bench.executor.close()

    pids = [finished.result for finished in bench.finished]
    assert len(set(pids[:-1])) == 1
    assert pids[-1] != pids[0]


@pytest.mark.parametrize("task_type", ["seen", "seen_async"])
async def test_a_handler_sees_its_attempt_deadline_and_key(bench: Bench, task_type: str) -> None:
    deadline = utc_now() + timedelta(hours=1)
    finished = await bench.run(task_type, attempt=3, idempotency_key="order-7", deadline=deadline)

    assert finished.result["attempt"] == 3
    assert finished.result["key"] == "order-7"
    assert finished.result["same"] is True
    assert finished.result["deadline"][:19] == deadline.isoformat()[:19]


async def test_what_an_async_handler_returns_is_a_copy_of_its_own(bench: Bench) -> None:
    payload = {"list": [1]}
    finished = await bench.run("echo", payload)

    assert finished.result == payload
    assert finished.result["list"] is not payload["list"]


@pytest.mark.parametrize("task_type", ["large", "large_async"])
async def test_a_result_over_the_limit_is_refused_with_the_cure(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type, 100 * MIB))

    assert "over the limit of 262144" in error.message
    assert not error.retryable


@pytest.mark.parametrize("task_type", ["no_json", "no_json_async"])
async def test_a_result_that_is_no_json_is_refused_with_the_cure(bench: Bench, task_type: str) -> None:
    error = error_of(await bench.run(task_type))

    assert "result is not JSON" in error.message
    assert not error.retryable


async def test_a_plain_function_that_returns_a_coroutine_fails_with_the_cure(bench: Bench) -> None:
    assert "make it an async def" in error_of(await bench.run("hidden_coroutine")).message


async def test_an_unknown_task_type_fails_at_once_naming_the_known_ones(bench: Bench) -> None:
    error = error_of(await bench.run("cuont"))

    assert "count_async" in error.message
    assert "--import" in error.message
    assert not error.retryable


async def test_context_variables_of_one_attempt_are_not_seen_by_the_next() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()

    assert (await bench.run("variables", "dirt")).result == "nothing"
    assert (await bench.run("variables", "more")).result == "nothing"

    await bench.executor.close()


# graphs


async def test_a_graph_runs_its_nodes_with_the_context_and_its_final_state_is_the_result(graphs: Bench) -> None:
    finished = await graphs.run("review", {"text": "four"}, attempt=2)

    assert finished.status == "completed", finished.error
    assert (finished.result["length"], finished.result["attempt"]) == (4, 2)
    assert finished.result["messages"][0]["content"] == "4 letters"


async def test_a_graph_wants_an_object(graphs: Bench) -> None:
    error = error_of(await graphs.run("review", [1]))

    assert "must be an object" in error.message
    assert not error.retryable


async def test_a_node_that_fails_fails_the_attempt_with_its_traceback(graphs: Bench) -> None:
    error = error_of(await graphs.run("review", {}))

    assert (error.type, error.retryable) == ("KeyError", True)
    assert "in measure" in error.traceback


async def test_a_builder_that_gives_no_graph_fails_the_attempt(graphs: Bench) -> None:
    assert "must return a LangGraph graph, not a str" in error_of(await graphs.run("broken_review", {})).message


async def test_a_graph_out_of_time_ends_without_losing_its_process(graphs: Bench) -> None:
    error = error_of(await graphs.run("stuck_review", {"text": ""}, timeout_s=0.2))
    before = {child.pid for child in children()}

    assert error.type == "timeout"
    assert (await graphs.run("review", {"text": "four"})).status == "completed"
    assert {child.pid for child in children()} == before


# errors


@pytest.mark.parametrize("task_type", ["fail", "fail_async"])
async def test_an_exception_comes_back_with_type_message_and_the_users_frames_only(
    bench: Bench, task_type: str
) -> None:
    error = error_of(await bench.run(task_type, "no such word", attempt=2))

    assert (error.type, error.message, error.attempt, error.retryable) == ("ValueError", "no such word", 2, True)
    assert f"in {task_type}" in error.traceback
    assert "executor_user_code.py" in error.traceback
    assert str(ROOT / "worker") not in error.traceback


@pytest.mark.parametrize(
    ("task_type", "name"),
    [
        ("raise_named", "SystemExit"),
        ("raise_named", "KeyboardInterrupt"),
        ("raise_named_async", "SystemExit"),
        ("raise_named_async", "KeyboardInterrupt"),
        ("raise_named_async", "CancelledError"),
    ],
)
async def test_whatever_a_handler_raises_only_fails_its_attempt(bench: Bench, task_type: str, name: str) -> None:
    error = error_of(await bench.run(task_type, name))

    assert (error.type, error.message) == (name, "enough")
    assert (await bench.run("echo", 1)).result == 1
    assert (await bench.run("pid")).status == "completed"


async def test_an_error_that_cannot_be_shown_or_is_huge_is_reported_all_the_same(bench: Bench) -> None:
    assert "cannot be shown: RuntimeError" in error_of(await bench.run("fail_unprintable")).message
    huge = error_of(await bench.run("huge_error"))
    assert len(huge.message) + len(huge.traceback) < 21_000


# processes that end


@pytest.mark.parametrize(
    ("task_type", "how"),
    [
        ("exit_3", "its process exited with status 3"),
        ("kill_itself", "its process was killed by SIGKILL"),
        ("close_everything", "its process was killed by SIGKILL"),
    ],
)
async def test_a_process_that_ends_fails_its_attempt_only_and_is_replaced(
    bench: Bench, task_type: str, how: str
) -> None:
    error = error_of(await bench.run(task_type))

    assert (error.type, error.message, error.retryable) == ("process_died", how, True)
    assert (await bench.run("pid")).status == "completed"


async def test_a_function_that_holds_the_interpreter_lock_is_killed_in_time_while_the_loop_goes_on(
    bench: Bench,
) -> None:
    bomb = bench.submit("regex_bomb")
    await bench.begun(bomb)
    echoed = await bench.run("echo", 1)
    assert bomb.task_id in bench.executor.running  # it did not hold up the loop

    finished = await bench.end_of(bomb)

    assert echoed.result == 1
    error = error_of(finished)
    assert (error.type, error.retryable) == ("timeout", True)
    assert "0.3 s" in error.message
    assert finished.run_ms >= 1300  # a second to listen first
    assert (await bench.run("pid")).status == "completed"


async def test_a_task_timeout_and_deadline_shorten_that_of_its_handler(bench: Bench, tmp_path: Path) -> None:
    by_timeout = bench.submit("wait_async", timeout_s=0.1)
    by_deadline = bench.submit("wait_async", deadline=utc_now() + timedelta(seconds=0.1))

    assert error_of(await bench.end_of(by_timeout)).type == "timeout"
    assert "deadline" in error_of(await bench.end_of(by_deadline)).message


async def test_a_task_past_its_deadline_is_not_begun(bench: Bench) -> None:
    error = error_of(await bench.run("echo", 1, deadline=utc_now() - timedelta(seconds=1)))

    assert (error.type, error.retryable) == ("deadline", False)


async def test_the_death_of_the_nursery_fails_what_runs_and_the_next_task_starts_another(
    bench: Bench, tmp_path: Path
) -> None:
    task = bench.submit("deaf", str(tmp_path / "pid"))
    pid = await written(tmp_path / "pid")
    [nursery] = psutil.Process().children()
    nursery.kill()

    assert error_of(await bench.end_of(task)).type == "process_died"
    assert (await bench.run("pid")).status == "completed"
    await until_async(lambda: not psutil.pid_exists(pid), "the old child is gone")


async def test_closing_leaves_no_process(tmp_path: Path) -> None:
    bench = Bench()
    await bench.executor.start()
    bench.submit("deaf", str(tmp_path / "pid"))
    bench.submit("wait_async")
    pid = await written(tmp_path / "pid")

    await bench.executor.close()
    await bench.executor.close()

    assert bench.finished == []
    assert not psutil.pid_exists(pid)
    assert children() == []


# cancelling


async def test_cancelling_a_function_that_asks_lets_it_end_and_keeps_its_process(bench: Bench, tmp_path: Path) -> None:
    task = bench.submit("obedient", str(tmp_path / "pid"))
    pid = await written(tmp_path / "pid")

    bench.executor.cancel(task.task_id, 1)
    finished = await bench.end_of(task)

    assert (finished.status, finished.result, finished.error) == ("cancelled", None, None)
    assert (await bench.run("pid")).result == pid


async def test_cancelling_a_function_that_does_not_ask_kills_its_process(bench: Bench, tmp_path: Path) -> None:
    task = bench.submit("deaf", str(tmp_path / "pid"))
    pid = await written(tmp_path / "pid")

    bench.executor.cancel(task.task_id, 1)

    assert (await bench.end_of(task)).status == "cancelled"
    assert not psutil.pid_exists(pid)


async def test_cancelling_a_coroutine_ends_it(bench: Bench) -> None:
    task = bench.submit("wait_async")
    await bench.begun(task)

    bench.executor.cancel(task.task_id, 1)

    assert (await bench.end_of(task)).status == "cancelled"


async def test_a_coroutine_that_does_not_end_is_left_behind_and_keeps_no_slot() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()

    assert error_of(await bench.run("never_ends_async", timeout_s=0.1)).type == "timeout"
    assert (await bench.run("echo", 1)).result == 1

    await bench.executor.close()


async def test_cancelling_what_has_not_begun_reports_it_at_once() -> None:
    bench = Bench()
    task = bench.submit("echo", 1)

    bench.executor.cancel(task.task_id, 2)  # another attempt: not this one
    assert bench.executor.queued == 1
    bench.executor.cancel(task.task_id, 1)

    assert [(finished.status, finished.run_ms) for finished in bench.finished] == [("cancelled", 0.0)]
    assert bench.executor.queued == 0


async def test_an_attempt_given_twice_runs_once(bench: Bench) -> None:
    for _ in range(2):
        bench.submit("echo_later", 1, task_id="same")
    await bench.run("echo_later", 2)

    assert [finished.task_id for finished in bench.finished].count("same") == 1


async def test_a_newer_attempt_replaces_the_older_and_begins_after_it(bench: Bench) -> None:
    old = bench.submit("wait_async", task_id="same")
    await bench.begun(old)

    new = bench.submit("echo", "new", task_id="same", attempt=2)
    assert bench.executor.queued == 1
    bench.submit("echo", "late", task_id="same", attempt=1)

    assert (await bench.end_of(new)).result == "new"
    assert [(finished.attempt, finished.status) for finished in bench.finished] == [(1, "cancelled"), (2, "completed")]


# order


async def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    bench = Bench(concurrency=1)
    for name, priority in [("a", "low"), ("b", "normal"), ("c", "urgent"), ("d", "normal"), ("e", "urgent")]:
        bench.submit("echo_later", task_id=name, priority=Priority(priority))
    await bench.executor.start()
    await until_async(lambda: len(bench.finished) == 5, "all end")
    await bench.executor.close()

    assert [finished.task_id for finished in bench.finished] == ["c", "e", "b", "d", "a"]


async def test_what_has_not_begun_can_be_taken_back() -> None:
    bench = Bench(concurrency=1)
    await bench.executor.start()
    running = bench.submit("wait_async")
    await bench.begun(running)
    waiting = [bench.submit("echo"), bench.submit("echo", priority=Priority.HIGH)]

    assert bench.executor.withdraw() == waiting[::-1]
    assert bench.executor.queued == 0
    assert list(bench.executor.running) == [running.task_id]
    await bench.executor.close()


async def test_no_more_run_at_a_time_than_asked_for(bench: Bench) -> None:
    for _ in range(5):
        bench.submit("wait_async")
    await until_async(lambda: len(bench.executor.running) == 2, "two run")

    assert bench.executor.queued == 3


async def test_the_loop_goes_on_while_many_short_tasks_run(bench: Bench) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if len(bench.finished) < 20_000:
            asyncio.get_running_loop().call_soon(turn)

    for _ in range(20_000):
        bench.submit("echo", 1)
    turn()
    await until_async(lambda: len(bench.finished) == 20_000, "all end")

    assert turns > 10


# progress, children, output


@pytest.mark.parametrize("task_type", ["report", "report_async"])
async def test_progress_is_passed_on_seldom_and_the_latest_wins(bench: Bench, task_type: str) -> None:
    task = bench.submit(task_type)
    await until_async(lambda: bench.progress and bench.progress[-1].note == "waiting", "the last one arrives")

    assert bench.progress[-1] == Progress(task.task_id, 1, 0.75, "waiting", {})
    assert bench.executor.running[task.task_id].progress == bench.progress[-1]
    assert len(bench.progress) < 20


@pytest.mark.parametrize("task_type", ["split", "split_async"])
async def test_a_handler_delegates_to_children_named_after_it(bench: Bench, task_type: str) -> None:
    finished = await bench.run(task_type, task_id="job")

    assert (finished.status, finished.result) == ("delegated", None)
    assert finished.spawn is not None
    assert [(child.task_id, child.payload) for child in finished.spawn.children] == [("job/0", 1), ("job/1", 2)]
    assert (finished.spawn.then.task_type, finished.spawn.then.payload) == ("merge", "rest")


async def test_a_continuation_reads_the_results_of_its_children(bench: Bench) -> None:
    assert (await bench.run("merge", inputs=(("a", "ok"), ("b", "ok")))).result == ["a", "b"]


async def test_a_continuation_of_a_failed_child_fails_naming_it(bench: Bench) -> None:
    error = error_of(await bench.run("merge", inputs=(("a", "ok"), ("b", "bad"))))

    assert (error.type, error.message) == ("TaskFailed", "task 'b' ended as failed: ValueError: no good")


async def test_what_a_child_prints_is_shown_line_by_line_with_its_task(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    await bench.run("talk", "one\ntwo \x1b[31mred\rforged", task_id="chatty")
    await bench.run("exit_3", task_id="dying")

    assert capsys.readouterr().err.splitlines() == [
        "[chatty] one",
        "[chatty] two \\x1b[31mred\\x0dforged",
        "[chatty] from below",
        "[dying] last words",
    ]


async def test_a_flood_of_output_is_capped_and_does_not_stop_the_task(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = await bench.run("flood", 64 * MIB)

    shown = capsys.readouterr().err
    assert finished.result == "done"
    assert shown.splitlines()[-1] == f"[{finished.task_id}] output capped at 64 KiB"
    assert len(shown) < 80 * 1024


async def test_children_do_not_inherit_the_keys_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"A2A_TOKEN_SECRET", "A2A_PREVIOUS_SECRET", "REDIS_PASSWORD", "REDIS_URL"}
    for name in secrets | {"OF_THE_USER"}:
        monkeypatch.setenv(name, "x")
    bench = Bench()
    await bench.executor.start()
    names = set((await bench.run("environment")).result)
    await bench.executor.close()

    assert "OF_THE_USER" in names
    assert not names & secrets


# the worker's own process


def script(folder: Path, *lines: str, guarded: bool = True) -> Path:
    """A script that defines a handler, and runs it when started."""
    body = [
        "import asyncio, os, sys, time",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from core.tasks import Task",
        "from worker.executor import Executor",
        "from worker.handlers import HANDLERS, task",
        *lines,
        "async def main():",
        "    ended = asyncio.get_running_loop().create_future()",
        "    executor = Executor(HANDLERS, concurrency=1, on_finished=ended.set_result, on_progress=print)",
        "    await executor.start()",
        "    executor.submit(Task(task_type='job', task_id='job', attempt=1))",
        "    finished = await ended",
        "    await executor.close()",
        "    print(finished.status, finished.result, finished.error, flush=True)",
        "if __name__ == '__main__':" if guarded else "if True:",
        "    asyncio.run(main())",
    ]
    path = folder / "script.py"
    path.write_text("\n".join(body))
    return path


def run_script(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)


HANDLER_IN_SCRIPT = ("@task('job')", "def job():", "    return [__name__, os.getpid()]")


def test_handlers_of_the_script_itself_run_in_children(tmp_path: Path) -> None:
    ran = run_script(script(tmp_path, *HANDLER_IN_SCRIPT))

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("completed ['__mp_main__', ")


def test_a_script_without_a_guard_is_refused_with_the_cure(tmp_path: Path) -> None:
    ran = run_script(script(tmp_path, *HANDLER_IN_SCRIPT, guarded=False))

    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1].startswith("core.errors.ConfigError: a worker was started while a child process")
    assert "if __name__" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "loop", ["time.sleep(600)", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"], ids=["sleeping", "in C"]
)
def test_children_end_when_their_worker_is_killed(tmp_path: Path, loop: str) -> None:
    handler = ["@task('job')", "def job():", "    open('begun', 'w').close()", f"    {loop}"]
    worker = subprocess.Popen([sys.executable, str(script(tmp_path, *handler))], cwd=tmp_path)
    until((tmp_path / "begun").exists, "the handler runs")
    family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) == 2  # nursery and child

    worker.send_signal(signal.SIGKILL)
    worker.wait()

    until(lambda: not any(map(lives, family)), "both are gone")


def lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


async def test_modules_that_cannot_be_imported_in_a_child_are_refused_at_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "made_broken.py"
    broken.write_text("raise RuntimeError('only here')")
    executor = Executor(
        user_handlers(), concurrency=1, on_finished=print, on_progress=print, modules=[str(broken)]
    )  # fmt: skip

    with pytest.raises(ConfigError, match="RuntimeError: only here"):
        await executor.start()
    await executor.close()


async def test_a_worker_of_coroutines_only_has_no_child_process() -> None:
    handlers = Handlers()
    for handler in user_handlers():
        if handler.kind == "async":
            handlers.add(handler)
    bench = Bench(handlers=handlers)
    await bench.executor.start()
    await bench.run("echo", 1)

    assert children() == []
    await bench.executor.close()
