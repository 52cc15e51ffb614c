"""Records anew what the test in this folder replays: `python -m tests.replay.record`.

    python -m tests.replay.record            a new run of a hierarchy; all files change
    python -m tests.replay.record --steps    the runs that are kept; only what steps say changes, and the diff shows it

The first is for when what goes into a step has another shape, or when something new is to happen in the run; the second
for when a rule decides otherwise, and is meant to.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coordinator.agent import CoordinatorBehaviour
from core.config.settings import RedisConfig
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.runtime.agent_loop import AgentLoop
from core.step import Batch, Step
from distributor.agent import DistributorBehaviour
from tests.integration.hierarchy import house
from tests.redis_server import RedisServer, bundled_server
from tests.replay.recording import FOLDER, Beginning, Moment, moment_of, parts_of, text_of
from tests.replay.replaying import replayed
from tests.replay.story import happen
from tests.replay.telling import told
from worker.agent import WorkerBehaviour

BEHAVIOURS: tuple[Any, ...] = (CoordinatorBehaviour, DistributorBehaviour, WorkerBehaviour)


class Recorder:
    """Listens to every agent of this process, and notes what each goes through."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.lives: list[tuple[Beginning, list[tuple[Moment, list[str]]]]] = []
        self._of: dict[int, list[tuple[Moment, list[str]]]] = {}  # by the id of a behaviour

    def begins(self, behaviour: Any, loop: AgentLoop, mono_ms: int, stored: dict[str, Any]) -> None:
        moments: list[tuple[Moment, list[str]]] = []
        self._of[id(behaviour)] = moments
        beginning = Beginning(
            chain=[str(address) for address in loop.setup.chain],
            config=loop.setup.config.model_dump(mode="json", exclude_defaults=True),
            incarnation=getattr(behaviour.state, "incarnation", 0), mono_ms=mono_ms, **stored,
        )  # fmt: skip
        self.lives.append((beginning, moments))

    def steps(self, behaviour: Any, moment: Moment, said: list[str]) -> None:
        self._of[id(behaviour)].append((moment, said))

    def stored(self, me: Address) -> dict[str, Any]:
        """What an agent reads when it begins."""
        keys = CoordinatorKeys(me.agent_id)
        hashes, indexes = {
            Role.COORDINATOR: ([keys.tasks, keys.submissions], [keys.open, keys.ended, keys.dead]),
            Role.DISTRIBUTOR: ([CellKeys(me.agent_id).actual], []),
        }.get(me.role, ([], []))
        with self._server.connect() as client:
            found: Any = {key: client.hgetall(key) for key in hashes}
            scores: Any = {key: client.zrange(key, 0, -1, withscores=True) for key in indexes}
        return {
            "hashes": {
                key: {name.decode(): value.decode() for name, value in fields.items()} for key, fields in found.items()
            },
            "sorted_sets": {key: {name.decode(): score for name, score in each} for key, each in scores.items()},
        }


@contextmanager
def listening(recorder: Recorder) -> Iterator[None]:
    """What is recorded is what the loop of each agent hands to its tier, and gets back."""
    before = [(kind, kind.load, kind.decide) for kind in BEHAVIOURS]
    for kind, load, decide in before:
        kind.load, kind.decide = _heard_load(recorder, load), _heard_decide(recorder, decide)
    try:
        yield
    finally:
        for kind, load, decide in before:
            kind.load, kind.decide = load, decide


def _heard_load(recorder: Recorder, load: Any) -> Any:
    async def heard(behaviour: Any, loop: AgentLoop) -> None:
        stored = recorder.stored(loop.setup.me)
        mono_ms = int(asyncio.get_running_loop().time() * 1000)
        await load(behaviour, loop)
        recorder.begins(behaviour, loop, mono_ms, stored)

    return heard


def _heard_decide(recorder: Recorder, decide: Any) -> Any:
    def heard(behaviour: Any, batch: Batch) -> Step:
        moment = moment_of(batch)  # before it: a step sets the answers of its calls
        step: Step = decide(behaviour, batch)
        said = told(step, list(batch.events), behaviour.next_wake_ms(), drained=behaviour.drained)
        recorder.steps(behaviour, moment, said)
        return step

    return heard


async def run(server: RedisServer) -> None:
    async with house(RedisConfig(url=server.url, password=server.password, mode="external")) as home:
        await happen(home, server)


def record() -> None:
    """Runs the hierarchy and writes a file for each life of an agent."""
    with RedisServer(bundled_server()) as server:
        recorder = Recorder(server)
        with listening(recorder):
            asyncio.run(run(server))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    lives: Counter[str] = Counter()
    for beginning, moments in recorder.lives:
        me = beginning.chain[-1].replace(":", "-")
        lives[me] += 1
        (FOLDER / f"{me}.life-{lives[me]}.txt").write_text(text_of(beginning, moments))


def record_steps() -> None:
    """Writes what today's code says to the batches that are kept."""
    for path in sorted(FOLDER.glob("*.txt")):
        beginning, moments = parts_of(path.read_text())
        said = replayed(beginning, [moment for moment, _ in moments])
        path.write_text(text_of(beginning, list(zip([moment for moment, _ in moments], said, strict=True))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.replay.record", description="Records batches anew.")
    parser.add_argument("--steps", action="store_true", help="only what the steps say, of the batches that are kept")
    logging.disable(logging.CRITICAL)
    record_steps() if parser.parse_args().steps else record()


if __name__ == "__main__":
    main()
