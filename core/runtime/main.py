"""A tier as a process: flags, logs, signals, exit codes.

The first SIGTERM or SIGINT drains: the agent takes nothing new, and finishes or hands back what it runs within the
drain timeout. A second one ends the process at once, and others finish its tasks. The process also ends itself when its
event loop has stood still for so long that others have taken over. User code in a coroutine or a thread that does not
end with its agent holds the process for at most END_GRACE_S.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from core import failpoints
from core.config.settings import Settings
from core.config.sources import load, take_secrets
from core.errors import AgentSystemError, ConfigError
from core.machine.own_process import spare_collector
from core.machine.process_secrets import guard
from core.module_names import module_name
from core.operations.checkup import check_secret_files
from core.printable import printable_lines
from core.runtime.agent import Agent
from core.runtime.exposition import exposition
from core.runtime.health import health_server
from core.runtime.logs import configure_logging
from core.runtime.own_loop import MAIN, run
from core.runtime.standstill import stay_awake
from core.runtime.tracing import flush, listen
from core.spans import SYSTEM

__all__ = ["EXIT_HANDED_BACK", "arguments", "drain_limit_s", "run_agent"]

EXIT_HANDED_BACK, EXIT_BUG = 75, 70
#: An event loop that stands still for this many failure timeouts ends its process.
STANDSTILL_TIMEOUTS = 3
#: Seconds between the end of an agent and that of its process, in which user code cleans up.
END_GRACE_S = 2.0

log = logging.getLogger(__name__)

Flags = Mapping[str, object]
Build = Callable[[argparse.Namespace, Settings], Agent]


def arguments(role: str, id_variable: str) -> argparse.ArgumentParser:
    """The flags that every tier has; a tier adds its own. A flag's `dest` is the variable that it overrides."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module_name(role)}", description=f"Runs one {role} until it is stopped."
    )
    parser.add_argument("--id", dest=id_variable, metavar="ID", help=f"its id (default: {id_variable}, or {role}-1)")
    parser.add_argument(
        "--standby", dest="AGENT_STANDBY", action="store_const", const="true",
        help="while another process acts for this id, wait to take over from it",
    )  # fmt: skip
    parser.add_argument(
        "--redis-url", dest="REDIS_URL", metavar="URL", help="redis://, rediss:// or unix://, without password"
    )
    parser.add_argument("--log-level", dest="LOG_LEVEL", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    parser.add_argument("--log-format", dest="LOG_FORMAT", choices=["auto", "console", "json"])
    parser.add_argument(
        "--drain-timeout",
        dest="DRAIN_TIMEOUT",
        metavar="S",
        help="seconds that running tasks get to finish after SIGTERM (default: 25)",
    )
    parser.add_argument(
        "--health-port", dest="AGENT_HEALTH_PORT", metavar="PORT", help="answer probes there: /livez, /readyz, /metrics"
    )
    parser.add_argument(
        "--health-host", dest="AGENT_HEALTH_HOST", metavar="HOST", help="at this address (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--record", dest="AGENT_RECORD", metavar="DIR", help="record what it goes through there, for `agents replay`"
    )
    # For a supervisor: a file that contains, at the time of SIGTERM, the seconds that override DRAIN_TIMEOUT.
    parser.add_argument("--drain-order", type=Path, help=argparse.SUPPRESS)
    return parser


def run_agent(parser: argparse.ArgumentParser, build: Build, argv: Sequence[str] | None = None) -> int:
    """Runs an agent to its end. Returns the exit code: 0 drained, 75 drained with tasks handed back, 69 no Redis,
    78 configuration, 1 another process holds the id, 70 a bug, or wedged: it was alive and did nothing. If its event
    loop stands still for three failure timeouts, the process says where on stderr, and exits with 1."""
    guard()
    for old in ("LANGCHAIN_TRACING", "LANGCHAIN_HANDLER"):  # with these, a graph that is not traced anew does not run
        os.environ.pop(old, None)
    flags = vars(parser.parse_args(argv))
    variables = {name: value for name, value in flags.items() if name.isupper()}
    try:
        _refuse_password(flags["REDIS_URL"] or "")
        settings = load(variables)
        take_secrets()
        configure_logging(settings.agent.log_level, settings.agent.log_format)
        for doubt in settings.doubts:
            log.warning("ignored: %s", doubt, extra={"action": "setting_misspelt"})
        for finding in check_secret_files(settings):
            log.warning("%s. Cure: %s", finding.what, finding.cure, extra={"action": "secret_file_open"})
        failpoints.arm(settings.agent.failpoints)
        agent = build(argparse.Namespace(**flags), settings)
        listen(f"{SYSTEM}.{agent.chain[-1].role.value}", agent.agent_id)
    except AgentSystemError as error:
        return _failed(parser.prog, error)
    return run(_to_its_end(parser.prog, agent, settings.agent.drain_timeout_s, flags["drain_order"]))


def _refuse_password(url: str) -> None:
    if re.search("://.*:.+@", url):
        raise ConfigError(
            "--redis-url has a password in it, and every user of this machine can read the arguments of a process."
            " Leave it out, and set REDIS_PASSWORD or REDIS_PASSWORD_FILE in the environment; or REDIS_URL there,"
            " in place of the flag."
        )


async def _to_its_end(program: str, agent: Agent, drain_timeout_s: float, drain_order: Path | None) -> int:
    code, stop = EXIT_BUG, _asked_to_stop()
    try:
        code = await _probed(agent, stop, drain_timeout_s, drain_order)
    except AgentSystemError as error:
        code = _failed(program, error)
    finally:
        flush()
        threading.Thread(target=_end, args=(code, asyncio.get_running_loop()), name="end", daemon=True).start()
    return code


def _failed(program: str, error: AgentSystemError) -> int:
    sys.stderr.write(f"{program}: {printable_lines(str(error))}\n")
    return error.exit_code


def _end(code: int, loop: asyncio.AbstractEventLoop) -> None:
    """Ends the process with `code`, unless it ends by itself within END_GRACE_S. A loop closes, and an interpreter
    ends, only when every coroutine and thread has ended."""
    time.sleep(END_GRACE_S)
    threads = {
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    }
    coroutines = {task.get_name() for task in asyncio.all_tasks(loop)} - {MAIN}
    if left := sorted(threads | coroutines):
        log.warning(
            "the process ends, although user code still runs: %s", ", ".join(left), extra={"action": "left_running"}
        )
    with suppress(OSError, ValueError):  # there may be no reader any more
        sys.stdout.flush()
    os._exit(code)


def _asked_to_stop() -> asyncio.Event:
    """An event that the first signal to end sets."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


async def _probed(agent: Agent, stop: asyncio.Event, drain_timeout_s: float, drain_order: Path | None) -> int:
    """Runs `_run`, and answers probes from before its start until after its end, if that is configured."""
    if agent.config.health_port is None:
        return await _run(agent, stop, drain_timeout_s, drain_order)
    host, port = agent.config.health_host, agent.config.health_port
    async with health_server(lambda: agent.condition, lambda: exposition(agent), host, port):
        log.info("answers probes at http://%s:%d", host, port, extra={"action": "health_server_started"})
        return await _run(agent, stop, drain_timeout_s, drain_order)


async def _run(agent: Agent, stop: asyncio.Event, drain_timeout_s: float, drain_order: Path | None) -> int:
    loop = asyncio.get_running_loop()
    watchdog = loop.create_task(
        stay_awake(STANDSTILL_TIMEOUTS * agent.config.failure_timeout_s, agent.holder_of_the_loop)
    )
    starting = loop.create_task(agent.initialize.aio())
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        watchdog.cancel()
        return 0
    starting.result()
    spare_collector()
    ended = loop.create_task(agent.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if ended.done():
            ended.result()
            return 0
        limit_s = drain_limit_s(drain_timeout_s, drain_order)
        log.info("draining: tasks get %g s; a second signal ends at once", limit_s, extra={"action": "draining"})
        if await agent.drain(limit_s):
            log.info("drained", extra={"action": "drained"})
            return 0
        log.warning("drained: unfinished tasks are handed back", extra={"action": "drained_with_hand_back"})
        return EXIT_HANDED_BACK
    finally:
        stopping.cancel()
        watchdog.cancel()
        await agent.close.aio()


def drain_limit_s(configured_s: float, order: Path | None) -> float:
    """The timeout in the supervisor's file now, or else the configured one."""
    return float(order.read_text()) if order is not None and order.exists() else configured_s
