"""`agents up --local`: a hierarchy in this process, on the configured Redis, until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from core.cli.render import note
from core.cli.session import run, settings
from core.cli.up_lock import take_lock
from core.config.settings import Settings
from core.launch.hierarchy import AgentRecord, HierarchyFiles, HierarchyRecord
from core.local.hierarchy import LocalHierarchy
from core.machine.process_identity import this_process
from core.runtime.logs import configure_logging
from core.runtime.main import EXIT_HANDED_BACK, drain_limit_s
from core.wiring import server_for

__all__ = ["run_here"]


def run_here(distributors: int, workers: int, modules: Sequence[str], concurrency: int | None) -> int:
    """Runs it to its end. Returns the exit code: 0, or 75 if unfinished tasks were handed back. Raises ConfigError,
    TransportDown, LeaseHeld; Exit: this machine runs it already."""
    configured = settings()
    configure_logging("WARNING", configured.agent.log_format)
    files = HierarchyFiles.of(configured.redis, configured.coordinator_id)
    lock = take_lock(files, configured.coordinator_id, str(configured.redis.endpoint))
    files.drain_order.unlink(missing_ok=True)
    try:
        return run(_to_its_end(configured, files, distributors, workers, modules, concurrency))
    finally:
        os.close(lock)


async def _to_its_end(
    configured: Settings, files: HierarchyFiles, distributors: int, workers: int, modules: Sequence[str],
    concurrency: int | None,
) -> int:  # fmt: skip
    began_s, ends = time.monotonic(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: os._exit(130) if ends.is_set() else ends.set())
    config = configured.agent if concurrency is None else configured.agent.model_copy(
        update={"concurrency": concurrency}
    )  # fmt: skip
    hierarchy = LocalHierarchy(
        modules, distributors=distributors, workers=workers, config=config,
        redis_config=await server_for(configured.redis, configured.a2a), a2a_config=configured.a2a,
        coordinator_id=configured.coordinator_id,
    )  # fmt: skip
    async with hierarchy:
        record = _record(configured, hierarchy)
        files.write(record)
        note(
            f"up in {time.monotonic() - began_s:.1f} s: {len(record.agents)} agents in process {os.getpid()} at"
            f" {configured.redis.endpoint}. Ctrl-C, or `agents down`, drains them. Next, elsewhere: agents status"
        )
        await ends.wait()
        limit_s = drain_limit_s(config.drain_timeout_s, files.drain_order)
        note(f"draining: running tasks get {limit_s:g} s. A second Ctrl-C ends it at once.")
        finished = await hierarchy.drain.aio(limit_s)
    codes = {"worker": 0 if finished else EXIT_HANDED_BACK}
    agents = tuple(replace(agent, exit_code=codes.get(agent.role, 0)) for agent in record.agents)
    files.write(replace(record, agents=agents))
    if finished:
        note("ended.")
        return 0
    note("ended; unfinished tasks are handed back, and the next `agents up` goes on with them.")
    return EXIT_HANDED_BACK


def _record(configured: Settings, hierarchy: LocalHierarchy) -> HierarchyRecord:
    return HierarchyRecord(
        configured.coordinator_id, str(configured.redis.endpoint), os.getpid(), this_process(),
        datetime.now(UTC).isoformat(timespec="seconds"), True, None,
        tuple(AgentRecord(address.role.value, address.agent_id, os.getpid()) for address in hierarchy.agents),
    )  # fmt: skip
