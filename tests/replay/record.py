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
from pathlib import Path

from core.config.settings import RedisConfig
from core.recording.comparison import files_of
from core.recording.life import Turn, head_text, turn_text
from core.recording.reader import RecordedLife
from core.recording.replay import replay
from tests.integration.hierarchy import house
from tests.redis_server import RedisServer, bundled_server
from tests.replay.story import FOLDER, happen

__all__ = ["text_of_today"]


def record() -> None:
    """Runs the hierarchy, whose agents write a file for each of their lives."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with RedisServer(bundled_server()) as server:
        asyncio.run(_run(server))


async def _run(server: RedisServer) -> None:
    async with house(RedisConfig(url=server.url, password=server.password, mode="external")) as home:
        await happen(home, server)


def record_steps() -> None:
    """Writes what today's code says to the batches that are kept."""
    for path in files_of(FOLDER):
        path.write_text(text_of_today(path))


def text_of_today(path: Path) -> str:
    """The file of a life, with the steps of today's code."""
    life = RecordedLife.opened(path)
    parts = [head_text(life.head, life.beginning)]

    def take(turn: Turn, lines: list[str]) -> bool:
        parts.append(turn_text(Turn(turn.moment, lines)))
        return True

    replay(life, take)
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.replay.record", description="Records batches anew.")
    parser.add_argument("--steps", action="store_true", help="only what the steps say, of the batches that are kept")
    logging.disable(logging.CRITICAL)
    record_steps() if parser.parse_args().steps else record()


if __name__ == "__main__":
    main()
