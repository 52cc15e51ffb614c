"""Handlers in a script that runs them itself: its children, what these start, print and log, and how they end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from core.errors import ConfigError
from tests.executor_bench import Bench, children, user_handlers
from tests.waiting import until
from worker.authoring.handlers import Handlers
from worker.execution.executor import Executor

ROOT = Path(__file__).parents[2]


def script(folder: Path, *lines: str, guarded: bool = True) -> Path:
    """A script that defines a handler, and runs it when started."""
    body = [
        "import asyncio, os, sys, time",
        f"sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]",
        "from core.tasks import Task",
        "from worker.execution.executor import Executor",
        "from worker.authoring.handlers import HANDLERS, task",
        *lines,
        "async def main():",
        "    ended = asyncio.get_running_loop().create_future()",
        "    executor = Executor(HANDLERS, concurrency=1, child_memory_mb=2048,",
        "                        on_finished=ended.set_result, on_progress=print)",
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


LOGS = (
    "import json, logging",
    "from core.runtime.logs import configure_logging",
    "log = logging.getLogger('mine')",
    "logging.basicConfig(level='DEBUG')",  # which counts for nothing below an agent
    "@task('job')",
    "def job():",
    "    log.debug('nobody wants this')",
    "    log.info('one', extra={'n': 1})",
    "    log.warning('two\\nlines')",
    "    logging.getLogger('httpx').info('nor this')",
    "    logging.getLogger('mine.more').debug('asked for')",
    "    print('printed')",
    "    print(json.dumps({'action': 'lease_lost', 'task_id': 'forged', 'more': '\\u2028'}))",
    "    try:",
    "        1 / 0",
    "    except ZeroDivisionError:",
    "        log.exception('three')",
)


def log_of(folder: Path, log_format: str) -> list[str]:
    """The lines on stderr of a worker that logs in that format and runs a handler that does."""
    configured = [
        "if __name__ == '__main__':",
        f"    configure_logging('INFO', {log_format!r})",
        "    logging.getLogger('mine.more').setLevel('DEBUG')",
    ]
    ran = run_script(script(folder, *LOGS, *configured))
    assert ran.stdout == "completed None None\n", ran.stderr
    return ran.stderr.splitlines()


def test_a_function_logs_for_people_as_its_worker_does(tmp_path: Path) -> None:
    said = [re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in log_of(tmp_path, "console")]

    assert said[:5] == [
        "[job] TIME info    one  n=1",
        r"[job] TIME warning two\nlines",
        "[job] TIME debug   asked for",
        "[job] printed",
        r'[job] {"action": "lease_lost", "task_id": "forged", "more": "\u2028"}',
    ]
    assert said[5] == "[job] TIME error   three"
    assert said[-1] == "[job]     ZeroDivisionError: division by zero"


def test_a_function_logs_in_json_as_its_worker_does_with_its_task(tmp_path: Path) -> None:
    *before, printed, forged, last = log_of(tmp_path, "json")
    entries = [json.loads(line) for line in (*before, last)]

    assert [(entry["level"], entry["logger"], entry["message"], entry["task_id"]) for entry in entries] == [
        ("INFO", "mine", "one", "job"),
        ("WARNING", "mine", "two\nlines", "job"),
        ("DEBUG", "mine.more", "asked for", "job"),
        ("ERROR", "mine", "three", "job"),
    ]
    assert all(datetime.fromisoformat(entry["time"]) for entry in entries)
    assert entries[0]["n"] == 1
    assert "division by zero" in entries[-1]["exception"]
    assert printed == "[job] printed"
    assert forged == r'[job] {"action": "lease_lost", "task_id": "forged", "more": "\u2028"}'  # printed, and no log


STDOUT_OF_ITS_OWN = (
    "class Shout:",
    "    def __init__(self, below): self.below = below",
    "    def write(self, text): return self.below.write(text.upper())",
    "    def flush(self): self.below.flush()",
    "print('imported')",
    "sys.stdout = Shout(sys.stdout)",
    "@task('job')",
    "def job():",
    "    print('from the job')",
    "    return 'done'",
)


def test_a_module_may_put_a_stream_of_its_own_in_the_place_of_stdout(tmp_path: Path) -> None:
    """What it has printed at import is printed once by each process that imports it, and not by those forked later."""
    program = script(tmp_path, *STDOUT_OF_ITS_OWN)
    program.write_text(program.read_text().replace("flush=True", "file=sys.__stdout__"))
    ran = run_script(program)

    assert (ran.stdout, ran.stderr) == ("imported\ncompleted done None\n", "imported\n[job] FROM THE JOB\n")


THREADS = (
    "from concurrent.futures import ThreadPoolExecutor",
    "pool, early = ThreadPoolExecutor(1), ThreadPoolExecutor(1)",
    "early.submit(int)",
    "early.shutdown()",
    "loaded = pool.submit(lambda: time.sleep(0.2) or 'loaded')",
    "@task('job', timeout=10)",
    "def job():",
    "    return [loaded.result(), pool.submit(len, 'ab').result(), early._shutdown]",
)


def test_a_thread_pool_that_was_used_at_import_works_in_a_child(tmp_path: Path) -> None:
    ran = run_script(script(tmp_path, *THREADS))

    assert (ran.stdout, ran.stderr) == ("completed ['loaded', 2, True] None\n", "")


WAITING_FOR_A_THREAD = (
    "import queue, threading",
    "asked, told = queue.Queue(), queue.Queue()",
    "def answer():",
    "    while True: told.put(asked.get())",
    "threading.Thread(target=answer, name='answerer', daemon=True).start()",
    "@task('job', timeout=0.2)",
    "def job():",
    "    asked.put(1)",
    "    return told.get()",
)


def test_a_function_that_waits_for_a_thread_of_its_module_is_told_that_it_has_none(tmp_path: Path) -> None:
    ran = run_script(script(tmp_path, *WAITING_FOR_A_THREAD))

    assert ran.stdout.startswith(
        "failed None TaskError(type='timeout', message='it ran longer than 0.2 s; modules of its handlers"
    )
    assert "started threads at import (answerer)" in ran.stdout
    assert "Start them in the handler" in ran.stdout
    assert ran.stderr.count("started threads at import (answerer)") == 1


POOLS = (
    "import multiprocessing",
    "from concurrent.futures import ProcessPoolExecutor",
    "def double(n):",
    "    return 2 * n",
    "@task('job', timeout=30)",
    "def job():",
    "    doubled = []",
    "    for method in ('spawn', 'forkserver', 'fork'):",
    "        context = multiprocessing.get_context(method)",
    "        with ProcessPoolExecutor(1, mp_context=context) as pool:",
    "            doubled += pool.map(double, [1, 2])",
    "    with multiprocessing.get_context('spawn').Pool(1) as pool:",
    "        return doubled + pool.map(double, [3])",
)


def test_a_handler_of_a_script_starts_processes_in_every_way(tmp_path: Path) -> None:
    ran = run_script(script(tmp_path, *POOLS))

    assert (ran.stdout, ran.stderr) == ("completed [2, 4, 2, 4, 2, 4, 6] None\n", "")


def test_processes_that_a_handler_starts_anew_do_not_start_the_program_of_its_worker(tmp_path: Path) -> None:
    """One that does not look whether it is imported, as a command that was written by hand."""
    (tmp_path / "mine.py").write_text("\n".join(["from worker import task", *POOLS]))
    program = script(
        tmp_path, "from worker.children.forkserver_process import fork_ahead", "fork_ahead()", "import mine"
    )
    program.write_text(program.read_text().replace("if __name__ == '__main__':", "if True:"))
    ran = run_script(program)

    assert (ran.stdout, ran.stderr) == ("completed [2, 4, 2, 4, 2, 4, 6] None\n", "")


@pytest.mark.parametrize(
    "loop", ["time.sleep(600)", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"], ids=["sleeping", "in C"]
)
def test_children_end_when_their_worker_is_killed(tmp_path: Path, loop: str) -> None:
    handler = ["@task('job')", "def job():", "    open('begun', 'w').close()", f"    {loop}"]
    worker = subprocess.Popen([sys.executable, str(script(tmp_path, *handler))], cwd=tmp_path)
    until((tmp_path / "begun").exists, "the handler runs")
    family = psutil.Process(worker.pid).children(recursive=True)
    assert len(family) == 2  # forkserver and child

    worker.send_signal(signal.SIGKILL)
    worker.wait()

    until(lambda: not any(map(lives, family)), "both are gone")


def lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def test_what_a_child_has_started_ends_when_the_worker_is_killed(tmp_path: Path) -> None:
    handler = [
        "@task('job')",
        "def job():",
        "    import subprocess",
        "    sleeper = subprocess.Popen(['sleep', '600'], start_new_session=True)",
        "    open('made', 'w').write(str(sleeper.pid))",
        "    os.rename('made', 'pid')",
        "    sleeper.wait()",
    ]
    worker = subprocess.Popen([sys.executable, str(script(tmp_path, *handler))], cwd=tmp_path)
    until((tmp_path / "pid").exists, "the handler runs")
    sleeper = psutil.Process(int((tmp_path / "pid").read_text()))

    worker.kill()
    worker.wait()

    until(lambda: not lives(sleeper), "it is gone")


async def test_modules_that_cannot_be_imported_in_a_child_are_refused_at_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "made_broken.py"
    broken.write_text("raise RuntimeError('only here')")
    executor = Executor(
        user_handlers(), concurrency=1, child_memory_mb=2048, on_finished=print, on_progress=print,
        modules=[str(broken)],
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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a forkserver is always started anew")
def test_a_forkserver_that_was_forked_ahead_holds_no_descriptor_that_its_worker_was_started_with() -> None:
    """Such as a lock of the shell's, or an end of a pipe that somebody reads until it is closed."""
    script = """
import os, time
from pathlib import Path
from worker.children import forkserver_process
os.dup2(1, 9)
forkserver_process.fork_ahead()
process, control = forkserver_process.take_ahead()
about = Path("/proc") / str(process.pid)
while not (about / "cmdline").read_bytes().startswith(b"worker.children.forkserver"):
    time.sleep(0.01)
print(len(os.listdir(about / "fd")), (about / "fd" / "9").exists())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("4 False\n", "")  # the three of every process, and its socket
