"""`agents chaos` from its options to its exit code."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core.chaos.injector import Kind
from core.chaos.live import ChaosView
from core.chaos.report import Report, report_json, report_svg, report_text
from core.chaos.run import START_S, Plan, RunResult, run_chaos
from core.errors import ConfigError, WorldError
from core.module_names import module_name
from core.pictures.live import wants_decoration

__all__ = ["run"]

EXIT_INTERRUPTED = 130


def run(
    *,
    seconds: float,
    seed: int,
    distributors: int,
    workers: int,
    interval_s: float,
    only: Sequence[str],
    agents: bool,
    json_file: Path | None,
    svg_file: Path | None,
    keep: bool,
    command: str,
) -> int:
    """Runs, judges and reports. Returns the exit code. Raises ConfigError for an unknown kind of fault, a distributor
    without a worker, or a file that cannot be written; WorldError when the hierarchy does not start."""
    if distributors > workers:
        raise ConfigError(f"{workers} workers cannot serve {distributors} distributors: each needs one at least.")
    plan = Plan(seconds, seed, interval_s, distributors, workers, _kinds(only), agents)
    for file in filter(None, (json_file, svg_file)):
        _check(file)
    logging.getLogger(module_name("core.runtime")).setLevel(logging.ERROR)  # warnings are expected
    directory = Path(tempfile.mkdtemp(prefix="agents-chaos-"))
    try:
        with ChaosView(sys.stderr, wants_decoration(sys.stderr)) as view:
            done = asyncio.run(_interruptible(plan, directory, view))
        report = _report(plan, done, command)
        keep = keep or report.exit_code != 0  # findings cannot be understood without the logs
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    except TimeoutError as error:
        keep = True
        raise WorldError(f"the hierarchy was not ready for work within {START_S:g} s; fewer --workers?") from error
    finally:
        if keep:
            _note(f"logs and ledger: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write("\n".join(report_text(report)) + "\n")
    if json_file:
        json_file.write_text(json.dumps(report_json(report), indent=2) + "\n", encoding="utf-8")
    if svg_file:
        svg_file.write_text(report_svg(report), encoding="utf-8")
    return report.exit_code


def _check(file: Path) -> None:
    """Checks before the run that a file can be written. Raises ConfigError."""
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigError(f"{file} cannot be written. Give a file in a directory that exists and is yours.")


def _kinds(only: Sequence[str]) -> frozenset[Kind]:
    unknown = sorted(set(only) - set(Kind))
    if unknown:
        raise ConfigError(f"--only: there is no fault {unknown[0]!r}. There are {', '.join(Kind)}.")
    return frozenset(map(Kind, only)) or frozenset(Kind)


async def _interruptible(plan: Plan, directory: Path, view: ChaosView) -> RunResult:
    """Makes the first Ctrl-C end the run early, with its verdict so far, and a second one end everything at once."""
    stop = asyncio.Event()
    running = asyncio.current_task()
    assert running is not None

    def asked_to_stop() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop)
    return await run_chaos(plan, directory, view, stop)


def _report(plan: Plan, done: RunResult, command: str) -> Report:
    return Report(
        command=command,
        seed=plan.seed,
        seconds=plan.seconds,
        interval_s=plan.interval_s,
        kinds=plan.kinds,
        record=done.record,
        phases=done.phases,
        verdict=done.verdict,
        interrupted=done.interrupted,
    )


def _note(words: str) -> None:
    sys.stderr.write(words + "\n")
