"""Handlers that go for the secrets of the processes around them, with the rights of any program of the same user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from errno import EACCES, EPERM

from core.config.sources import load
from core.config.variables import secret_text
from worker.authoring.handlers import task

PR_GET_DUMPABLE = 3
PTRACE_SEIZE = 0x4206
PIDFD_GETFD = 438

libc = ctypes.CDLL(None, use_errno=True)


class _Span(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


@task("pry", retries=0)
def pry(pids: list[int]) -> list[dict[str, str]]:
    """What came of each way into each of the processes: "refused", or what else."""
    return [{name: outcome(way, pid) for name, way in WAYS.items()} for pid in pids]


@task("own_inspectability", retries=0)
def own_inspectability() -> int:
    return int(libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))


@task("settings_read_again", retries=0)
async def settings_read_again() -> dict[str, bool]:
    """On the worker's own loop, in its process: whether the secret is there for `load`, and in the environment."""
    return {
        "settings": bool(secret_text(load().a2a.token_secret)),
        "environment": "A2A_TOKEN_SECRET" in os.environ,
    }


def outcome(way: Callable[[int], object], pid: int) -> str:
    try:
        way(pid)
    except OSError as error:
        return "refused" if error.errno in (EACCES, EPERM) else f"{error.strerror}"
    return "done"


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(name: str) -> Callable[[int], object]:
    def way(pid: int) -> object:
        with open(f"/proc/{pid}/{name}", "rb", 0) as file:
            return file.read(1)

    return way


def take_descriptor(pid: int) -> object:
    handle = os.pidfd_open(pid)
    return checked(libc.syscall(PIDFD_GETFD, handle, 0, 0))


def read_from_outside(pid: int) -> object:
    mine = ctypes.create_string_buffer(8)
    here, there = _Span(ctypes.addressof(mine), 8), _Span(0, 8)
    return checked(libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))


def trace(pid: int) -> object:
    return checked(libc.ptrace(PTRACE_SEIZE, pid, None, None))


WAYS: dict[str, Callable[[int], object]] = {
    "environ": read("environ"),
    "maps": read("maps"),
    "mem": read("mem"),
    "fd": lambda pid: os.readlink(f"/proc/{pid}/fd/0"),
    "pidfd_getfd": take_descriptor,
    "process_vm_readv": read_from_outside,
    "ptrace": trace,
}
