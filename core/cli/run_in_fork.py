"""Runs a function in a fork, so that what it reads is never in the memory of this process."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from core.cli.render import note
from core.errors import AgentSystemError
from core.machine.forked import fork_detached

__all__ = ["run_in_fork"]

T = TypeVar("T")


def run_in_fork(work: Callable[[], T]) -> T:
    """Calls `work` in a fork of this process, and returns its result, which must be possible to pickle. Use it in a
    process with one thread and no event loop.

    Raises SystemExit, with an exit code, when it fails; the reason is then on stderr.
    """
    readable, writable = os.pipe()
    pid = fork_detached(partial(_tell, work, writable), stdout=None, stderr=None, close=[readable])
    os.close(writable)
    with os.fdopen(readable, "rb") as told:
        answer = told.read()
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise SystemExit(code if code > 0 else AgentSystemError.exit_code)
    return pickle.loads(answer)  # type: ignore[no-any-return]


def _tell(work: Callable[[], object], writable: int) -> int:
    try:
        answer = pickle.dumps(work())
    except AgentSystemError as error:
        note(f"agents: {error}")
        return error.exit_code
    with os.fdopen(writable, "wb") as told:
        told.write(answer)
    return 0
