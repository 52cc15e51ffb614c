"""Nothing that user code does in a child process harms the worker, and none outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from core.config.settings import A2ASecrets, AgentConfig, RedisConfig
from core.config.variables import variable_of
from core.tasks import utc_now
from tests.executor_bench import Bench, children, error_of, written
from tests.waiting import until_async

ROOT = Path(__file__).parents[2]

MIB = 1024 * 1024


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.executor.start()
    yield bench
    await bench.executor.close()


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


async def test_the_death_of_the_forkserver_fails_what_runs_and_the_next_task_starts_another(
    bench: Bench, tmp_path: Path
) -> None:
    task = bench.submit("deaf", str(tmp_path / "pid"))
    pid = await written(tmp_path / "pid")
    forkserver = children()[0]
    forkserver.kill()

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


async def test_children_have_chances_of_their_own_except_where_a_seed_was_given(bench: Bench) -> None:
    one = (await bench.run("chance")).result
    await bench.run("exit_3")
    other = (await bench.run("chance")).result

    assert one["pid"] != other["pid"]
    assert one["own"] != other["own"]
    assert one["all"] != other["all"]
    assert one["seeded"] == other["seeded"] == one["reseeded"] == other["reseeded"]


# output


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
    assert shown.splitlines()[-1] == f"[{finished.task_id}] output capped at 64 KiB for a minute"
    assert len(shown) < 80 * 1024


@pytest.mark.parametrize("end", ["raise", "hang", "die"])
async def test_a_failed_attempt_tells_what_it_printed_last(bench: Bench, end: str) -> None:
    ends = {"raise": "ValueError", "hang": "timeout", "die": "process_died"}
    text = "x" * 10_000 + "\nthe last line, über alles"

    error = error_of(await bench.run("say_and_end", {"text": text, "end": end}, timeout_s=0.5))
    silent = error_of(await bench.run("fail", "x"))

    assert error.type == ends[end]
    assert error.output.endswith("xxx\nthe last line, über alles")
    assert 2000 < len(error.output.encode()) <= 2048
    assert silent.output == ""  # what others printed is not its own


async def test_an_attempt_that_completes_or_delegates_tells_what_it_printed_and_logged_last(bench: Bench) -> None:
    text = "x" * 10_000 + "\nthe last line, über alles"

    talked = await bench.run("talk", text)
    delegated = await bench.run("talk_and_split", "two of them")
    logged = await bench.run("log", "what it logged")
    flooded = await bench.run("flood", MIB)
    silent = [await bench.run(task_type, 1) for task_type in ("pid", "echo")]

    assert talked.output.endswith("xxx\nthe last line, über alles\nfrom below\n")
    assert 2000 < len(talked.output.encode()) <= 2048
    assert (delegated.status, delegated.output) == ("delegated", "two of them\n")
    assert len(flooded.output) == 2048
    assert logged.output.endswith(" warning what it logged\n")
    assert [outcome.output for outcome in silent] == ["", ""]  # what others printed is not its own


async def test_a_coroutine_tells_what_it_logged_last(bench: Bench) -> None:
    several = [bench.submit("log_async", text) for text in ("one", "x" * 3000, "fail")]
    one, long, failed = [await bench.end_of(task) for task in several]

    assert [line.split(maxsplit=1)[1] for line in one.output.splitlines()] == ["warning one", "warning from below"]
    assert long.output.startswith("xxx")
    assert len(long.output) == 2048
    assert " warning fail\n" in error_of(failed).output
    assert (await bench.run("echo", 1)).output == ""


async def test_bytes_that_are_no_text_take_no_more_room_in_a_failure_than_text(bench: Bench) -> None:
    error = error_of(await bench.run("say_and_end", {"text": "ÿ" * 5000, "encoding": "latin-1", "end": "raise"}))

    assert set(error.output) == {"\ufffd"}
    assert len(error.output.encode()) <= 2048


@pytest.mark.parametrize("end", ["raise", "hang"])
async def test_a_failed_attempt_that_printed_nothing_tells_how_far_it_said_it_was(bench: Bench, end: str) -> None:
    failed = await bench.run("note_and_end", {"text": "halfway", "end": end}, timeout_s=0.2)

    assert error_of(failed).output == "halfway"


async def test_children_do_not_inherit_the_keys_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        variable.name
        for model in (RedisConfig, A2ASecrets, AgentConfig)
        for field in model.model_fields
        if (variable := variable_of(model, field)) and variable.secret
    }
    assert {"A2A_TOKEN_SECRET", "REDIS_URL"} < secrets
    for name in secrets | {"OF_THE_USER"}:
        monkeypatch.setenv(name, "the-secret")
    bench = Bench()
    await bench.executor.start()
    names = set((await bench.run("environment")).result)
    processes = children()
    environs = [process.environ() for process in processes]  # as they began, and as anybody of this user can read it
    await bench.executor.close()

    assert "OF_THE_USER" in names
    assert not names & secrets
    assert len(processes) == 2  # forkserver and child
    assert not any(secrets & set(environ) for environ in environs)
