"""What becomes of a process whose event loop stands still."""

from __future__ import annotations

import subprocess
import sys

LIMIT_S = 2

BLOCKED = f"""
import asyncio, logging, time
from core.runtime.standstill import stay_awake

async def main():
    asyncio.get_running_loop().create_task(stay_awake({LIMIT_S}, lambda: "the handler of 'nap'"))
    await asyncio.sleep(0)
    def take_a_nap():
        time.sleep(600)
    take_a_nap()

logging.basicConfig()
asyncio.run(main())
"""


def test_a_process_whose_loop_is_blocked_names_who_blocks_it_and_where_and_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert "has stood still for 1 s, in the handler of 'nap': an async def must not block" in ended.stderr
    assert "take_a_nap" in ended.stderr
