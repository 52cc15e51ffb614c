"""`make agents`: a team of agents works on a question, a worker is killed in the middle, a person is asked, and nothing
runs twice."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from agent_system import AgentClient, AgentSystemError, Task
from core.config.sources import load
from core.module_names import module_name
from core.operations.erase import erase_hierarchy
from core.operations.overview import read_overview
from core.operations.reader import Reader, reading
from core.pictures.task_lanes import Mark, timeline_svg
from core.printable import printable
from core.roles import Role
from core.wiring import server_for
from examples.census.trail import attempts_of
from examples.ctrl_c import end_as_by_ctrl_c
from examples.research_team.journal import FILE, Entry, entries

QUESTION = "how a lease is lost; how messages are signed; what a dead letter is"
TEAM = Path(__file__).with_name("team.py")
POLL_S = 0.1
STOP_S = 60.0
EXIT_RAN_TWICE = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns the exit code: 0 if every step was done once."""
    parser = argparse.ArgumentParser(prog="python -m examples.research_team", description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION, help="topics with a semicolon between them")
    parser.add_argument("--yes", action="store_true", help="approve, without asking in the terminal")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw who ran what when, as SVG")
    parser.add_argument("--kill", choices=["worker", "nobody"], default="worker", help="who dies (default: worker)")
    flags = parser.parse_args(argv)
    try:
        return asyncio.run(demo(flags.question, flags.picture, yes=flags.yes, kill=flags.kill == "worker"))
    except AgentSystemError as error:
        say(f"agents: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED


async def demo(question: str, picture: Path | None, *, yes: bool, kill: bool) -> int:
    kills: list[Mark] = []
    with tempfile.TemporaryDirectory(prefix="research-") as folder:
        journal, log = Path(folder, "journal"), Path(folder, "log")
        async with hierarchy(journal, log) as reader, AgentClient() as client:
            task_id = await client.submit.aio(Task(task_type="research_team", payload={"question": question}))
            watching = watch(journal, kills if kill else None)
            result = await first_of(client.value.aio(task_id), watching, ask(client, task_id, yes=yes))
            if picture:
                await asyncio.to_thread(picture.write_text, await drawn(reader, load().coordinator_id, kills))
        say("", result.get("report") or "It was not approved, so nothing was written.", "")
        return verdict(noted_in(journal))


async def first_of(*jobs: Coroutine[Any, Any, Any]) -> Any:
    """The result of the job that ends first; the others are cancelled."""
    running = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def noted_in(journal: Path) -> list[Entry]:
    return entries(journal.read_text()) if journal.exists() else []


def verdict(noted: Sequence[Entry]) -> int:
    """Says whether a step was done twice, and returns the exit code."""
    done = Counter((entry.task_id, entry.step) for entry in noted if entry.what == "done")
    begun = Counter((entry.task_id, entry.step) for entry in noted if entry.what == "begins")
    again = sum(begun.values()) - sum(1 for step in done if step in begun)
    if again:
        say(f"{again} step(s) were cut off, and begun again elsewhere.")
    twice = [step for (_, step), times in done.items() if times > 1]
    say(f"DONE TWICE: {', '.join(twice)}" if twice else f"All {len(done)} steps were done, and none of them twice.")
    return EXIT_RAN_TWICE if twice else 0


async def drawn(reader: Reader, coordinator_id: str, kills: Sequence[Mark]) -> str:
    """Who ran what when, as SVG."""
    distributors = (await read_overview(reader, coordinator_id)).of_role(Role.DISTRIBUTOR)
    attempts = await attempts_of(reader, [distributor.agent_id for distributor in distributors])
    return timeline_svg(attempts, kills, "A team of agents: who ran what, and when")


async def watch(journal: Path, kills: list[Mark] | None) -> None:
    """Shows what the agents do. With `kills`, to which that is added, the worker of the first researcher dies while
    that searches."""
    shown = 0
    while True:
        noted = noted_in(journal)
        for entry in noted[shown:]:
            say(f"  {entry.task_type:14} {entry.what:7} {entry.step}")
            if kills == [] and entry.task_type == "researcher" and entry.what == "begins":
                kill_worker_of(entry.pid)
                kills.append(Mark(time.time(), "a worker is killed"))
        shown = len(noted)
        await asyncio.sleep(POLL_S)


def kill_worker_of(host: int) -> None:
    """Kills the worker whose host process this is: its forkserver lies between them."""
    forkserver = psutil.Process(host).parent()
    worker = forkserver and forkserver.parent()
    if worker is not None:
        worker.kill()
        say(f"  kill -9 {worker.pid}: the worker of that researcher is dead")


async def ask(client: AgentClient, task_id: str, *, yes: bool) -> None:
    """Answers what the agents ask, in the terminal, or with yes."""
    while True:
        for question in await client.questions.aio(root=task_id):
            say("", f"{question.task_id} waits, and holds no process. It asks: {question.asks['question']}")
            for topic, finding in question.asks["findings"].items():
                say(f"  {topic}: {finding}")
            answer: Any = "yes" if yes else await typed("yes or no? ")
            await client.answer.aio(question.task_id, question.interrupt_id, answer, question.digest)
        await asyncio.sleep(POLL_S)


async def typed(prompt: str) -> str:
    """The next line of standard input; empty at its end. Unlike `input` in a thread, it can be given up."""
    print(prompt, end="", flush=True)
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            return sys.stdin.readline().strip()
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def hierarchy(journal: Path, log: Path) -> AsyncIterator[Reader]:
    """Two workers that know the team, in a hierarchy of its own, which leaves nothing behind."""
    end_as_by_ctrl_c()
    os.environ["COORDINATOR_ID"] = coordinator_id = f"team-{secrets.token_hex(3)}"
    settings = load()
    redis = await server_for(settings.redis, settings.a2a)
    supervisor = started(journal, log)
    try:
        async with reading(redis) as reader:
            try:
                yield reader
            finally:
                supervisor.send_signal(signal.SIGTERM)
                await asyncio.to_thread(supervisor.wait, STOP_S)
                await erase_hierarchy(reader, coordinator_id)
    finally:
        supervisor.kill()
        supervisor.wait()


def started(journal: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            (sys.executable, "-m", module_name("core.cli"), "up", "--import", str(TEAM)),
            env={**os.environ, FILE: str(journal)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # this process passes Ctrl-C on
        )


def say(*lines: str) -> None:
    for line in lines:
        print("\n".join(printable(part) for part in line.split("\n")), flush=True)
