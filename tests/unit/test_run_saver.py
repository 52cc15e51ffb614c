"""What a run writes about itself while something in it cannot be stored."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from core.agent_run import RunOptions
from core.checkpoints.memory_storage import MemoryStorage
from core.checkpoints.storage import Fence
from core.errors import BadTask
from worker.hosts.run_storage import RunSaver

PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "c1"}}


async def test_a_value_that_cannot_be_stored_fails_its_own_write_alone() -> None:
    saver = RunSaver(MemoryStorage(lambda: time.time() * 1000), Fence(0, 1), RunOptions(), own_thread=False)

    with pytest.raises(BadTask):
        await saver.aput_writes(PLACE, [("x", threading.Lock())], "task-1", "~__pregel_pull, first")
    await saver.aput_writes(PLACE, [("x", "fine")], "task-2", "~__pregel_pull, second")
    await saver.store_all()
    assert saver.stored
