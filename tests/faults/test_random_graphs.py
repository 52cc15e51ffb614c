"""Random graphs, whose workers, hosts and server are killed while they run, end as they do when nothing happens, and no
finished node runs again.

GRAPH_SEEDS=100-299 has others than the few graphs of every day.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import pytest

from core.chaos.processes import Processes
from core.checkpoints.redis_saver import RedisSaver
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.run_stream import StreamChunk
from core.tasks import Task
from tests.faults import random_graph_code
from tests.faults.outages import crash, one_server
from tests.faults.random_graph_code import FOLDER, gate, task_of
from tests.faults.random_graphs import LAST_MARK, Described, described, graph_of
from tests.redis_server import RedisServer
from tests.tiers import SECRET, ForkedTiers
from tests.waiting import until

FIRST, LAST = map(int, os.environ.get("GRAPH_SEEDS", "0-15").split("-"))
#: That run at the same time.
BATCH = 24
GATES = 3
FAULTS = ("worker", "host", "server", "worker")
WORKERS = ("w1", "w2")

Visit = tuple[str, str]  #: the label of a graph, and a mark


def answer_to(question: dict[str, int]) -> int:
    return (question["total"] + question["number"]) % 7


class Undisturbed:
    """What the nodes of a graph do in this process. Counts how often each visit begins where a run that waits is
    suspended: once, and again after each answer."""

    def __init__(self, label: str, begins: Counter[Visit]) -> None:
        self._label = label
        self._begins = begins

    def note(self, what: Literal["begins", "done"], mark: str) -> None:
        self._begins[self._label, mark] += what == "begins"

    def is_closed(self, mark: str) -> bool:
        return False

    def ask(self, mark: str, question: dict[str, int]) -> int:
        self.note("begins", mark)
        return answer_to(question)

    def delegate(self, mark: str, graphs: list[Described]) -> list[dict[str, Any]]:
        if graphs:
            self.note("begins", mark)
        return [undisturbed(graph, self._begins) for graph in graphs]


def undisturbed(graph: Described, begins: Counter[Visit]) -> dict[str, Any]:
    """The last state of a graph, and of those that it delegates to how often each of their visits begins."""
    state: dict[str, Any] = graph_of(graph, Undisturbed(graph["label"], begins)).compile().invoke({})
    return state


class Note(NamedTuple):
    pid: int
    what: str
    task_id: str
    label: str
    mark: str

    @property
    def visit(self) -> Visit:
        return self.label, self.mark


class Killed(NamedTuple):
    pids: frozenset[int]
    finished: frozenset[Visit]  #: what had ended, and was stored, by then


class GraphRun:
    """The run of the graph of a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.label = str(seed)
        self.begins: Counter[Visit] = Counter()
        self.state = undisturbed(described(seed), self.begins)
        self.task = task_of(described(seed), task_id=f"graph-{seed}")
        self._folder = folder
        for visit in random.Random(f"gates {seed}").sample(sorted(self.begins), min(GATES, len(self.begins))):
            gate(folder, *visit).touch()

    def notes(self) -> list[Note]:
        log = self._folder / f"{self.label}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [Note(int(pid), *rest) for pid, *rest in map(str.split, lines)]

    def waiting(self) -> list[Note]:
        """Its nodes that wait at a gate."""
        notes = self.notes()
        done = {note.visit for note in notes if note.what == "done"}
        return [note for note in notes if note.visit not in done and gate(self._folder, *note.visit).exists()]

    def finished(self) -> frozenset[Visit]:
        return frozenset(note.visit for note in self.notes() if note.what == "done")

    def has_ended(self) -> bool:
        return (self.label, LAST_MARK) in self.finished()

    def begun_too_often(self, kills: Iterable[Killed]) -> dict[Visit, int]:
        """The visits that began more often than they may: once more for each kill that hit them."""
        notes = [note for note in self.notes() if note.what == "begins"]
        allowed = Counter(self.begins)
        for killed in kills:
            hit = {note.visit for note in notes if note.pid in killed.pids}
            allowed.update(hit - killed.finished)
        begun = Counter(note.visit for note in notes)
        return {visit: times for visit, times in begun.items() if times > allowed[visit]}


class Scene:
    """The runs of several graphs in a hierarchy in which somebody is killed whenever none of them goes on by itself:
    each waits at a gate, or for answers."""

    def __init__(self, server: RedisServer, tiers: ForkedTiers, client: AgentClient, runs: list[GraphRun]) -> None:
        self.kills: list[Killed] = []
        self._server, self._tiers, self._client, self._runs = server, tiers, client, runs

    def play(self, faults: Iterator[str], rng: random.Random) -> None:
        self._client.submit_many([run.task for run in self._runs])
        while running := self._at_rest():
            if fault := next(faults, None):
                self._strike(fault, rng, [note for run in running for note in run.waiting()])
            for run in running:
                for note in run.waiting():
                    gate(run._folder, *note.visit).unlink(missing_ok=True)
            for question in self._client.questions(limit=1000):
                self._client.answer(question.task_id, question.interrupt_id, answer_to(question.asks), question.digest)

    def _at_rest(self) -> list[GraphRun]:
        """The runs that have not ended, once all of them wait; branches of theirs may still be under way."""

        def rest() -> bool:
            going = [run for run in self._runs if not run.has_ended() and not run.waiting()]
            asking = {q.task_id.partition("/")[0] for q in self._client.questions(limit=1000)} if going else set()
            return all(run.task.task_id in asking for run in going)

        until(rest, "every run waits", 60)
        return [run for run in self._runs if not run.has_ended()]

    def _finished(self) -> frozenset[Visit]:
        """What has ended by now, once it is stored. Of what ends meanwhile nobody knows whether it is."""
        finished = set[Visit]()
        with RedisSaver(self._tiers.redis) as saver:
            for run in self._runs:
                done = [note for note in run.notes() if note.what == "done"]
                until(lambda done=done: are_stored(saver, done), f"what {run.label} has done is stored")  # type: ignore[misc]
                finished |= {note.visit for note in done if note.mark != LAST_MARK}
        return frozenset(finished)

    def _strike(self, fault: str, rng: random.Random, waiting: list[Note]) -> None:
        finished = self._finished()
        if fault == "server":
            crash(self._server, down_s=0)
        elif fault == "host" and waiting:
            victim = rng.choice(waiting).pid
            os.kill(victim, signal.SIGKILL)
            self._bury({victim}, finished)
        else:
            name = rng.choice(WORKERS)
            below = {process.pid for process in psutil.Process(self._tiers.pid(name)).children(recursive=True)}
            self._tiers.kill(name)
            self._bury(below, finished)
            self._tiers.start("worker", name, "--import", random_graph_code.__file__)

    def _bury(self, pids: set[int], finished: frozenset[Visit]) -> None:
        until(lambda: not any(map(lives, pids)), "they are dead")
        self.kills.append(Killed(frozenset(pids), finished))


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def are_stored(saver: RedisSaver, done: list[Note]) -> bool:
    """Whether these visits are stored, but for the last node of a graph, of which the task's record has the result; the
    thread goes then."""
    for task_id in {note.task_id for note in done}:
        marks = {note.mark for note in done if note.task_id == task_id}
        stored = repr(list(saver.list({"configurable": {"thread_id": task_id}})))
        if not all(f"'{mark}'" in stored for mark in marks - {LAST_MARK}) and (
            stored != "[]" or LAST_MARK not in marks
        ):
            return False
    return True


@pytest.fixture
def tiers(chaos_server: RedisServer, processes: Processes, tmp_path: Path) -> Iterator[ForkedTiers]:
    chaos_server.clean()
    redis = RedisConfig(url=chaos_server.url, password=chaos_server.password, mode="external")
    with ForkedTiers(processes, redis, tmp_path, **{FOLDER: str(tmp_path)}) as tiers:
        tiers.start("coordinator", "coordinator-1")
        tiers.start("distributor", "distributor-1")
        for name in WORKERS:
            tiers.start("worker", name, "--import", random_graph_code.__file__)
        yield tiers


def check_stream(client: AgentClient, ended: Task) -> None:
    """What a run has told has one end, names each attempt that went on where it begins to tell, and has no gap for
    a reader that leaves and comes back."""
    chunks = list(client.stream(ended.task_id))
    attempts = [chunk.attempt for chunk in chunks]
    assert attempts == sorted(attempts), ended.task_id
    told = [chunk for chunk in chunks if chunk.mode == "lifecycle"]
    assert [chunk.data for chunk in told if "status" in chunk.data] == [{"status": ended.status}], ended.task_id
    assert told[-1] == chunks[-1]
    assert [chunk.attempt for chunk in told[:-1]] == sorted(set(attempts))[1:], ended.task_id
    in_parts: list[StreamChunk] = []
    while in_parts != chunks:
        part = list(islice(client.stream(ended.task_id, after=in_parts[-1].id if in_parts else None), 5))
        assert part
        in_parts += part
        assert in_parts == chunks[: len(in_parts)]


@one_server
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(FIRST, LAST + 1, BATCH))
def test_random_graphs_that_are_killed_end_as_undisturbed_ones_and_repeat_only_what_was_cut_off(
    chaos_server: RedisServer, tiers: ForkedTiers, tmp_path: Path, first: int
) -> None:
    rng = random.Random(f"faults {first}")
    runs = [GraphRun(seed, tmp_path) for seed in range(first, min(first + BATCH, LAST + 1))]
    with AgentClient(tiers.redis, A2AConfig(agent_id="c", token_secret=SECRET), "coordinator-1", "c") as client:
        scene = Scene(chaos_server, tiers, client, runs)
        scene.play(iter(rng.sample(FAULTS, len(FAULTS))), rng)
        for run in runs:
            assert client.value(run.task.task_id, 60) == run.state, f"seed {run.label}"
            check_stream(client, client.result(run.task.task_id))

    for run in runs:
        begun = {note.visit for note in run.notes() if note.what == "begins"}
        assert begun == run.finished() == run.begins.keys(), f"seed {run.label}"
        assert run.begun_too_often(scene.kills) == {}, f"seed {run.label}"
    assert any(run.begun_too_often([]) for run in runs), "nobody was hit"
